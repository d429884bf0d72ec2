"""One-time codes, keys and assertions → who a request comes from; nothing that is stored here lets anyone in.

A code is stored as its SHA-256. An assertion is remembered until it would be refused for its age. Access tokens are
signed with a secret that all processes of the centre share through the database.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from psycopg import errors
from psycopg.types.json import Jsonb

from lampyris.centre.database import Connection
from lampyris.centre.refusals import not_found, refusal, unauthorised
from lampyris.model import InputError
from lampyris.transfer import (
    Assertion,
    Enrolment,
    EnrolmentRequest,
    PublicKey,
    limits,
    new_code,
    plain_code,
)

KEYS_OF_A_SITE = 4
NO_CODE = "0" * 20
"""Stands where a code would, when a site that is enrolled brings another key."""
CODE_HOURS = 24


async def invite(connection: Connection, site: str) -> str:
    """A one-time code with which a site (new or known) enrols within a day; it is shown once and not kept."""
    if not limits.SITE.fullmatch(site):
        raise InputError("a site's id is 1 … 63 lower-case letters, digits and dashes, beginning with no dash")
    code = new_code(secrets.token_bytes(13))
    async with connection.transaction():
        await connection.execute("INSERT INTO site (id) VALUES (%s) ON CONFLICT DO NOTHING", (site,))
        await connection.execute(
            "INSERT INTO enrolment_code (digest, site, expires) VALUES (%s, %s, now() + make_interval(hours => %s))",
            (_digest(plain_code(code)), site, CODE_HOURS),
        )
    return code


async def enrol(connection: Connection, request: EnrolmentRequest, audience: str) -> Enrolment:
    """Let a site in by its code; the same code with the same key is answered alike. Raises Refusal."""
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT site, used_by FROM enrolment_code JOIN site ON site.id = site"
            " WHERE digest = %s AND expires > now() AND NOT suspended FOR UPDATE OF enrolment_code",
            (_digest(request.code),),
        )
        row = await cursor.fetchone()
        if row is None:
            raise refusal(403, "CODE", "the code is unknown or out of date: ask the operator for another")
        if row["used_by"] not in (None, request.key_id):
            raise refusal(403, "CODE_USED", "the code was used with another key: ask the operator for another")
        await connection.execute(
            "UPDATE enrolment_code SET used_by = %s WHERE digest = %s", (request.key_id, _digest(request.code))
        )
        await _store_key(connection, row["site"], request)
    return Enrolment(row["site"], request.key_id, audience)


async def add_key(connection: Connection, site: str, request: EnrolmentRequest, audience: str) -> Enrolment:
    """Another key of a site that is let in already. Raises Refusal."""
    if request.code != NO_CODE:
        raise refusal(403, "CODE", "a site that is enrolled sends twenty zeros as its code")
    async with connection.transaction():
        await _store_key(connection, site, request)
    return Enrolment(site, request.key_id, audience)


async def remove_key(connection: Connection, site: str, key: str) -> None:
    """Take a key back; the last one stays. Raises Refusal."""
    async with connection.transaction():
        await connection.execute("SELECT 1 FROM site WHERE id = %s FOR UPDATE", (site,))
        keys = await keys_of(connection, site)
        if key not in keys:
            raise not_found()
        if len(keys) == 1:
            raise refusal(409, "CONFLICT", "the last key of a site cannot be taken back: bring another one first")
        await connection.execute("DELETE FROM site_key WHERE id = %s AND site = %s", (key, site))


async def keys_of(connection: Connection, site: str) -> dict[str, PublicKey]:
    """Every key of a site that is not suspended, by its id."""
    cursor = await connection.execute(
        "SELECT site_key.id, key FROM site_key JOIN site ON site.id = site WHERE site = %s AND NOT suspended", (site,)
    )
    return {row["id"]: row["key"] for row in await cursor.fetchall()}


async def use_once(connection: Connection, assertion: Assertion) -> None:
    """Remember an assertion; Refusal when it was shown before."""
    cursor = await connection.execute(
        "INSERT INTO assertion (site, jti, expires) VALUES (%s, %s, to_timestamp(%s)) ON CONFLICT DO NOTHING",
        (assertion.site, assertion.jti, assertion.expires),
    )
    if cursor.rowcount == 0:
        raise unauthorised("REPLAYED", "the assertion was used before: make a new one for each token")


async def _store_key(connection: Connection, site: str, request: EnrolmentRequest) -> None:
    await connection.execute("SELECT 1 FROM site WHERE id = %s FOR UPDATE", (site,))
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO site_key (id, site, key) VALUES (%s, %s, %s)",
                (request.key_id, site, Jsonb(dict(request.key))),
            )
    except errors.UniqueViolation:
        if request.key_id not in await keys_of(connection, site):
            raise refusal(409, "CONFLICT", "the key belongs to another site: every site makes its own") from None
    if len(await keys_of(connection, site)) > KEYS_OF_A_SITE:
        raise refusal(409, "CONFLICT", f"a site has at most {KEYS_OF_A_SITE} keys: take one back first")


@dataclass(frozen=True, slots=True)
class Grant:
    """What an access token says, its signature checked: a site, the key it was got with, the secret that signed it."""

    site: str
    key: str
    secret: str


async def stands(connection: Connection, grant: Grant) -> bool:
    """Whether a grant is good now: the site is let in, its key and the centre's secret were not taken back."""
    cursor = await connection.execute(
        "SELECT FROM site_key JOIN site ON site.id = site WHERE site_key.id = %s AND site = %s AND NOT suspended"
        " AND EXISTS (SELECT FROM token_secret WHERE token_secret.id = %s)",
        (grant.key, grant.site, grant.secret),
    )
    return await cursor.fetchone() is not None


class Tokens:
    """Access tokens of a centre: HS256 under a secret from the database, good for five minutes and one site.

    A process keeps the secrets that it has read; whether one still counts, the database is asked with every request.
    """

    def __init__(self, audience: str) -> None:
        self._audience = audience
        self._keys: dict[str, OctKey] = {}
        self._read_at = 0

    async def issue(self, connection: Connection, site: str, key: str, now: int) -> str:
        """A token for a site that has shown this key, signed with the newest secret."""
        secret = await self._read(connection)
        header = {"alg": "HS256", "kid": secret, "typ": "at+jwt"}
        claims = {"sub": site, "key": key, "aud": self._audience, "exp": now + limits.TOKEN_SECONDS}
        return jwt.encode(header, claims, self._keys[secret], algorithms=["HS256"])

    async def grant_of(self, connection: Connection, token: str, now: int) -> Grant:
        """What a token grants; Refusal 401 for any other text, and as soon as the token does not count any more."""
        try:
            named = jws.extract_compact(token.encode()).headers()["kid"]
            if named not in self._keys and now > self._read_at:
                self._read_at = now  # strangers may name what they like: once a second
                await self._read(connection)
            found = jwt.decode(token, self._keys[named], algorithms=["HS256"])
            site, key, audience, expires = (found.claims.get(name) for name in ("sub", "key", "aud", "exp"))
        except (JoseError, KeyError, ValueError, TypeError, AttributeError, RecursionError):
            raise unauthorised("TOKEN", "the access token is not one of this centre's") from None
        if not (isinstance(site, str) and isinstance(key, str) and isinstance(expires, int)):
            raise unauthorised("TOKEN", "the access token is not one of this centre's")
        grant = Grant(site, key, named)
        if audience != self._audience or expires < now or not await stands(connection, grant):
            raise unauthorised("TOKEN", "the access token is out of date: get a new one")
        return grant

    async def _read(self, connection: Connection) -> str:
        """Read all secrets; the id of the newest. The first process of a centre makes one."""
        rows = await _secrets(connection)
        if not rows:
            async with connection.transaction():
                await connection.execute("LOCK TABLE token_secret IN SHARE ROW EXCLUSIVE MODE")
                if not await _secrets(connection):
                    await new_secret(connection)
                rows = await _secrets(connection)
        self._keys = {row["id"]: OctKey.import_key(bytes(row["secret"])) for row in rows}
        return str(rows[-1]["id"])


async def new_secret(connection: Connection) -> str:
    """Another secret of access tokens, which signs from now on; its id."""
    name = secrets.token_hex(8)
    await connection.execute(
        "INSERT INTO token_secret (id, secret, created) VALUES (%s, %s, clock_timestamp())",
        (name, secrets.token_bytes(32)),
    )
    return name


async def _secrets(connection: Connection) -> list[dict[str, Any]]:
    cursor = await connection.execute("SELECT id, secret FROM token_secret ORDER BY created, id")
    return await cursor.fetchall()


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
