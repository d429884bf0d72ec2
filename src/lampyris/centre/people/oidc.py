"""A sign-in at the organisation's OpenID provider → a person, with roles as the mapping of its claims says.

Authorization code flow with PKCE (RFC 7636), state and nonce; OpenID Connect Core 1.0, section 3.1. The state lives in
the browser that began, as a cookie, and in the database as its digest: a sign-in that somebody else began ends nowhere.
"""

import hmac
import os
import re
import secrets
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from lampyris.centre.database import Connection
from lampyris.centre.people.passwords import LOGIN
from lampyris.centre.people.rules import Role
from lampyris.centre.people.sessions import digest_of
from lampyris.centre.people.tenants import checked_name
from lampyris.centre.settings import Settings
from lampyris.model import InputError, MachineError

SECRET = "LAMPYRIS_OIDC_SECRET"
"""Environment variable with the secret of this client; none for a public client, which PKCE alone protects."""
CALLBACK = "/sign-in/provider/back"
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"]
_LEEWAY_S = 60
_FLOW_MINUTES = 10
_WAIT_S = 10.0
_LARGEST = 1 << 20
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class ProviderError(MachineError):
    """The provider does not answer, or not as OpenID Connect has it."""

    code = "MACHINE_OIDC"


class Unproven(Exception):  # noqa: N818 - nothing failed: somebody did not show who they are
    """A sign-in that came back does not prove anything; the message says why, for the log."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Whoever's claim has this value has this role at this tenant."""

    value: str
    role: Role
    tenant: str


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenID provider, as the file of LAMPYRIS_OIDC describes it; `claim` may lead down: realm_access.roles."""

    issuer: str
    client_id: str
    name: str
    claim: str
    scope: str
    rules: tuple[Rule, ...]


def provider_of(settings: Settings) -> Provider | None:
    """The provider of a centre, if it has one. Raises InputError for a file that is not as it should be."""
    return None if settings.oidc is None else _read(Path(settings.oidc))


@cache
def _read(path: Path) -> Provider:
    try:
        told = tomllib.loads(path.read_text("utf-8"))
        rules = tuple(Rule(str(each["value"]), Role(each["role"]), str(each["tenant"])) for each in told.pop("grant"))
        plain = {"name": "OpenID", "claim": "groups", "scope": "openid profile email"} | told
        provider = Provider(rules=rules, **{name: str(value) for name, value in plain.items()})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path.name} does not describe an OpenID provider ({type(error).__name__}): expected issuer, client_id,"
            " perhaps name, claim and scope, and [[grant]] with value, role and tenant"
        ) from error
    _check_url(provider.issuer)
    return provider


async def begin(connection: Connection, provider: Provider, redirect: str, then: str) -> tuple[str, str]:
    """Where a browser is sent to sign in, and the state that it keeps in a cookie. Raises ProviderError."""
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    async with _client() as http:
        told = await _discovered(http, provider)
    await connection.execute(
        "INSERT INTO flow (digest, nonce, verifier, next, expires)"
        " VALUES (%s, %s, %s, %s, now() + make_interval(mins => %s))",
        (digest_of(state), nonce, verifier, then, _FLOW_MINUTES),
    )
    url = prepare_grant_uri(
        told["authorization_endpoint"], provider.client_id, "code", redirect_uri=redirect, scope=provider.scope,
        state=state, nonce=nonce, code_challenge=create_s256_code_challenge(verifier), code_challenge_method="S256",
    )  # fmt: skip
    return str(url), state


async def end(
    connection: Connection, provider: Provider, redirect: str, answer: Mapping[str, str], kept: str
) -> tuple[dict[str, Any], str]:
    """The claims of whoever has signed in, and where they wanted to go. `answer` is the query, `kept` the cookie.

    Raises Unproven, ProviderError.
    """
    state = answer.get("state", "")
    if not kept or not hmac.compare_digest(state.encode(), kept.encode()):
        raise Unproven("the state is not the one of this browser")
    cursor = await connection.execute(
        "DELETE FROM flow WHERE digest = %s AND expires > now() RETURNING nonce, verifier, next", (digest_of(state),)
    )
    flow = await cursor.fetchone()
    if flow is None:
        raise Unproven("the sign-in was ended before, or took longer than ten minutes")
    if "code" not in answer or answer.get("iss", provider.issuer) != provider.issuer:  # iss: RFC 9207
        raise Unproven("the provider refused, or it was another one")
    async with _client() as http:
        told = await _discovered(http, provider)
        body = {"grant_type": "authorization_code", "code": answer["code"], "redirect_uri": redirect,
                "client_id": provider.client_id, "code_verifier": flow["verifier"]}  # fmt: skip
        secret = os.environ.get(SECRET)
        auth = None if secret is None else httpx.BasicAuth(quote(provider.client_id, safe=""), quote(secret, safe=""))
        got = await _json(http, "POST", told["token_endpoint"], data=body, auth=auth)
        keys = await _json(http, "GET", told["jwks_uri"])
    return _claims(provider, got, keys, flow["nonce"]), str(flow["next"])


async def person_of(connection: Connection, provider: Provider, claims: Mapping[str, Any]) -> tuple[int, str] | None:
    """Number and login of whoever has these claims, with the roles that they say; None for whoever has no role at all.

    An account is known by issuer and subject alone: neither address nor name make somebody the owner of another's.
    """
    subject = f"{provider.issuer} {claims['sub']}"
    wanted = [(str(rule.role), rule.tenant) for rule in provider.rules if rule.value in _values(claims, provider.claim)]
    async with connection.transaction():
        cursor = await connection.execute("SELECT number, login, disabled FROM person WHERE subject = %s", (subject,))
        row = await cursor.fetchone()
        if row is None and wanted:
            row = await _added(connection, subject, claims)
        if row is None or row["disabled"]:
            return None
        await connection.execute("DELETE FROM granted WHERE person = %s AND origin = 'oidc'", (row["number"],))
        for role, tenant in wanted:
            await connection.execute(
                "INSERT INTO granted (person, role, tenant, origin) SELECT %s, %s, id, 'oidc' FROM tenant WHERE id = %s"
                " ON CONFLICT DO NOTHING",
                (row["number"], role, tenant),
            )
        cursor = await connection.execute("SELECT FROM granted WHERE person = %s LIMIT 1", (row["number"],))
        return (int(row["number"]), str(row["login"])) if await cursor.fetchone() is not None else None


async def _added(connection: Connection, subject: str, claims: Mapping[str, Any]) -> dict[str, Any] | None:
    """A new account, by the login that the provider prefers if it is free."""
    digest = digest_of(subject)[:12]
    wished = re.sub(r"[^a-z0-9._@-]", "", str(claims.get("preferred_username") or claims.get("email") or "").lower())
    try:
        name = checked_name(str(claims.get("name") or wished or "OpenID"))
    except InputError:
        name = "OpenID"
    for login in (wished[:64], f"oidc-{digest}"):
        if not LOGIN.fullmatch(login):
            continue
        cursor = await connection.execute(
            "INSERT INTO person (login, name, subject) VALUES (%s, %s, %s) ON CONFLICT (login) DO NOTHING"
            " RETURNING number, login, disabled",
            (login, name, subject),
        )
        if row := await cursor.fetchone():
            return row
    return None


def _claims(provider: Provider, got: Mapping[str, Any], keys: Mapping[str, Any], nonce: str) -> dict[str, Any]:
    """The claims of an ID token whose signature, issuer, audience, times and nonce are right. Raises Unproven."""
    try:
        token = jwt.decode(str(got["id_token"]), KeySet.import_key_set(dict(keys)), algorithms=_ALGORITHMS)  # type: ignore[arg-type]
        claims = CodeIDToken(
            token.claims,
            token.header,
            options={"iss": {"essential": True, "value": provider.issuer},
                     "aud": {"essential": True, "value": provider.client_id}},
            params={"nonce": nonce, "client_id": provider.client_id, "access_token": got.get("access_token")},
        )  # fmt: skip
        claims.validate(int(time.time()), _LEEWAY_S)
    except (JoseError, AuthlibBaseError, KeyError, ValueError, TypeError) as error:
        raise Unproven(f"the ID token is not good: {type(error).__name__}") from error
    if not isinstance(claims["sub"], str) or not 0 < len(claims["sub"]) <= 255:
        raise Unproven("the ID token names nobody")
    return dict(claims)


def _values(claims: Mapping[str, Any], path: str) -> set[str]:
    """What a claim says: a text, or a list of texts."""
    found: Any = claims
    for step in path.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return {str(each) for each in found} if isinstance(found, list) else {found} if isinstance(found, str) else set()


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=_WAIT_S, follow_redirects=False)


async def _discovered(http: httpx.AsyncClient, provider: Provider) -> dict[str, str]:
    """The provider's own description (OpenID Connect Discovery 1.0), asked for anew: keys and places may change."""
    told = await _json(http, "GET", get_well_known_url(provider.issuer, external=True))
    if told.get("issuer") != provider.issuer:
        raise ProviderError("the provider calls itself otherwise than the settings do: is `issuer` letter for letter?")
    try:
        for name in _ENDPOINTS:
            _check_url(str(told[name]))
    except (KeyError, InputError) as error:
        raise ProviderError("the provider's description lacks an endpoint, or names one without TLS") from error
    return {name: str(told[name]) for name in _ENDPOINTS}


async def _json(http: httpx.AsyncClient, method: str, url: str, **more: Any) -> dict[str, Any]:
    """One JSON object of the provider; nothing of it is told or logged. Raises ProviderError, Unproven."""
    try:
        async with http.stream(method, url, **more) as answer:
            body = b""
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _LARGEST:
                    raise ProviderError("the provider's answer is longer than 1 MiB")
            if answer.status_code in (400, 401) and method == "POST":
                raise Unproven(f"the provider does not take the code: {answer.status_code}")
            if answer.status_code != 200:
                raise ProviderError(f"the provider answers {answer.status_code}")
        found = httpx.Response(200, content=body).json()
    except (httpx.HTTPError, ValueError) as error:
        raise ProviderError(f"the provider does not answer as it should ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise ProviderError("the provider's answer is no JSON object")
    return found


def _check_url(url: str) -> None:
    """TLS, or this machine. Raises InputError."""
    parts = urlsplit(url)
    try:
        here = parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        here = False
    if not parts.hostname or parts.username or (parts.scheme != "https" and not (here and parts.scheme == "http")):
        raise InputError("an OpenID provider is reached by https://HOST/…, without a name or password in it")
