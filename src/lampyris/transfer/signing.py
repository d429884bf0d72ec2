"""Bytes + a site's Ed25519 key → JWS compact text, and back again if the signature holds.

Only RFC 9864's `Ed25519` is spoken; every kind of message has its own `typ`, so that none passes for another.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from lampyris.model import FormatError, InputError, StorageError
from lampyris.transfer import limits
from lampyris.transfer.manifest import Manifest
from lampyris.transfer.strict import ManifestError

ALGORITHM: Literal["Ed25519"] = "Ed25519"
MANIFEST = "lampyris-manifest+jws"

PublicKey: TypeAlias = Mapping[str, str]
"""A public key as JWK: kty "OKP", crv "Ed25519", x."""


class SignatureError(InputError):
    """A signature is missing, broken, or made by a key that the centre does not know."""

    code = "INPUT_SIGNATURE"


@dataclass(frozen=True, slots=True)
class SiteKey:
    """The private key that makes a site the site it is; it never leaves the machine that made it."""

    key: OKPKey = field(repr=False)

    @staticmethod
    def generate() -> "SiteKey":
        return SiteKey(OKPKey.generate_key(ALGORITHM))

    @staticmethod
    def load(path: Path) -> "SiteKey":
        """Read a key file; StorageError when others than its owner may read it, FormatError when it is no such key."""
        try:
            mode, text = path.stat().st_mode, path.read_bytes()
        except OSError as error:
            raise StorageError(f"the key {path.name} cannot be read ({error.strerror})") from error
        if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
            raise StorageError(f"the key {path.name} may be read by others (mode {stat.S_IMODE(mode):o}): chmod 600 it")
        return SiteKey.of(text, path.name)

    @staticmethod
    def of(text: bytes, name: str) -> "SiteKey":
        """A key from its PEM (PKCS 8); FormatError, which calls it `name`, when it is no such key."""
        try:
            key = OKPKey.import_key(text)
        except (JoseError, ValueError) as error:
            raise FormatError(f"{name} holds no private key in PEM") from error
        if key.curve_name != ALGORITHM or not key.is_private:
            raise FormatError(f"{name} holds a key of another kind: expected a private Ed25519 key")
        return SiteKey(key)

    def save(self, path: Path) -> None:
        """Write PEM (PKCS 8) that its owner alone may read; an existing file is refused. Raises StorageError."""
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(self.key.as_pem(private=True))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"the key {path.name} cannot be written ({error.strerror})") from error

    @property
    def public(self) -> PublicKey:
        return {name: str(value) for name, value in self.key.as_dict(private=False).items() if name in _JWK}

    @property
    def key_id(self) -> str:
        """RFC 7638 thumbprint."""
        return self.key.thumbprint()

    def sign(self, payload: bytes, typ: str, **header: Any) -> str:
        """JWS compact with `kid` and `typ` in its header."""
        whole = {"alg": ALGORITHM, "typ": typ, "kid": self.key_id, **header}
        return jws.serialize_compact(whole, payload, self.key, registry=_registry())


_JWK = ("kty", "crv", "x")


def public_key(jwk: Any) -> PublicKey:
    """A stranger's JWK, if it is a public Ed25519 key and nothing else; SignatureError otherwise."""
    if not isinstance(jwk, dict) or set(jwk) != set(_JWK) or jwk.get("kty") != "OKP" or jwk.get("crv") != ALGORITHM:
        raise SignatureError("the key is not a public JWK of kty OKP, crv Ed25519 and x")
    try:
        OKPKey.import_key(jwk)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise SignatureError("the key's x is not 32 bytes in base64url") from error
    return {name: str(jwk[name]) for name in _JWK}


def key_id(key: PublicKey) -> str:
    """RFC 7638 thumbprint of a public key."""
    return OKPKey.import_key(dict(key)).thumbprint()


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed message as it came. Nothing of it is true before `opened` has verified it with a key."""

    text: str = field(repr=False)
    header: Mapping[str, Any]
    unverified: bytes = field(repr=False)

    @staticmethod
    def of(text: str, typ: str) -> "Envelope":
        """Take a JWS apart; SignatureError when it is none of that type."""
        if len(text) > limits.MANIFEST_BYTES * 4 // 3 + 2048:
            raise SignatureError(f"a signed message of {len(text)} characters is longer than any that is allowed")
        try:
            found = jws.extract_compact(text.encode("ascii"), registry=_registry())
            header = dict(found.headers())
        except (JoseError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise SignatureError("the signed message is no JWS in compact form") from error
        if header.get("alg") != ALGORITHM or header.get("typ") != typ or {"crit", "b64"} & set(header):
            raise SignatureError(f"the signed message is not of alg {ALGORITHM} and typ {typ}, without crit")
        return Envelope(text, header, bytes(found.payload or b""))

    @property
    def key_id(self) -> str:
        """The key that the message names; SignatureError when it names none."""
        named = self.header.get("kid")
        if not isinstance(named, str) or not limits.KEY_ID.fullmatch(named):
            raise SignatureError("the signed message names no key: kid must be an RFC 7638 thumbprint")
        return named

    def opened(self, key: PublicKey) -> bytes:
        """The payload, if `key` signed it; SignatureError otherwise."""
        try:
            found = jws.deserialize_compact(self.text, OKPKey.import_key(dict(key)), registry=_registry())
        except (JoseError, ValueError, TypeError) as error:
            raise SignatureError("the signature does not hold: another key, or changed on the way?") from error
        return bytes(found.payload or b"")


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest whose signature held: the text as it came, the manifest, and the SHA-256 of the bytes signed."""

    text: str = field(repr=False)
    manifest: Manifest
    digest: str
    key_id: str


def sign_manifest(manifest: Manifest, key: SiteKey) -> str:
    """What commits a scan. ManifestError when the manifest has no parts or is too long."""
    payload = manifest.to_json()
    if not manifest.parts or len(payload) > limits.MANIFEST_BYTES:
        raise ManifestError(
            f"a manifest of {len(manifest.parts)} parts and {len(payload)} bytes cannot be committed:"
            f" expected 1 … {limits.PARTS} parts in at most {limits.MANIFEST_BYTES} bytes"
        )
    return key.sign(payload, MANIFEST)


def verify_manifest(text: str, key_of: Callable[[str], PublicKey | None]) -> SignedManifest:
    """A committed manifest; `key_of` gives the site's key of that id, or None.

    Raises SignatureError, or ManifestError when the signature holds and the content does not.
    """
    envelope = Envelope.of(text, MANIFEST)
    named = envelope.key_id
    key = key_of(named)
    if key is None:
        raise SignatureError(f"key {named[:8]}… is not one of this site's: enrolled elsewhere, or taken back?")
    payload = envelope.opened(key)
    manifest = Manifest.parse(payload)
    if not manifest.parts:
        raise ManifestError("the manifest has no parts: there is nothing to commit")
    return SignedManifest(text, manifest, hashlib.sha256(payload).hexdigest(), named)


def manifest_of(text: str) -> Manifest:
    """The manifest in a signed text that was verified before; nothing is verified here."""
    return Manifest.parse(Envelope.of(text, MANIFEST).unverified)


def _registry() -> jws.JWSRegistry:
    registry = jws.JWSRegistry(algorithms=[ALGORITHM])
    registry.max_payload_length = limits.MANIFEST_BYTES * 4 // 3 + 4
    return registry
