"""A small OpenID provider that checks what it is sent: redirect, PKCE, the client's secret, each code once."""

import base64
import hashlib
import time
from typing import Any
from urllib.parse import parse_qs, urlencode

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse
from joserfc import jwt
from joserfc.jwk import ECKey

CLIENT, SECRET = "lampyris", "s3cret of the client"
SAID = ("iss", "sub", "aud", "exp", "iat", "nonce")


class Provider:
    """Whoever comes is signed in with `claims`; `lies` change what the ID token says."""

    def __init__(self) -> None:
        self.key = ECKey.generate_key("P-256", {"kid": "one"}, auto_kid=False)
        self.issuer = ""
        self.claims: dict[str, Any] = {
            "sub": "1234",
            "preferred_username": "Wang.Wei",
            "name": "王 伟",
            "groups": ["ct"],
        }
        self.lies: dict[str, Any] = {}
        self.signed_with = self.key
        self.asked: list[dict[str, str]] = []
        self._codes: dict[str, dict[str, str]] = {}
        self.app = FastAPI()
        self.app.get("/.well-known/openid-configuration")(self.description)
        self.app.get("/keys")(self.keys)
        self.app.get("/authorize")(self.authorize)
        self.app.post("/token")(self.token)

    async def description(self) -> dict[str, Any]:
        places = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        return {"issuer": self.issuer} | {name: f"{self.issuer}/{path}" for name, path in places.items()}

    async def keys(self) -> dict[str, Any]:
        return {"keys": [self.key.as_dict(private=False)]}

    async def authorize(self, request: Request):
        said = dict(request.query_params)
        assert (said["response_type"], said["client_id"], said["code_challenge_method"]) == ("code", CLIENT, "S256")
        assert "openid" in said["scope"].split()
        self.asked.append(said)
        code = hashlib.sha256(said["state"].encode()).hexdigest()
        self._codes[code] = said
        return RedirectResponse(f"{said['redirect_uri']}?{urlencode({'code': code, 'state': said['state']})}", 302)

    async def token(self, request: Request):
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        said = self._codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        wanted = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET.replace(' ', '%20')}".encode()).decode()
        good = said is not None and said["code_challenge"] == challenge.decode()
        if not good or said["redirect_uri"] != form["redirect_uri"] or request.headers.get("authorization") != wanted:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        told = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": said["nonce"]}
        header = {"alg": "ES256", "kid": "one"}
        signed = jwt.encode(header, told | self.claims | self.lies, self.signed_with, algorithms=["ES256"])
        return {"access_token": "opaque", "token_type": "Bearer", "id_token": signed}
