"""A site's key and the time → assertions (RFC 7523) and enrolment requests, and the same checked by the centre.

Nothing here remembers: whoever checks an assertion must see to it that its `jti` is used once.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from lampyris.model.arrays import canonical_json
from lampyris.transfer import limits
from lampyris.transfer.signing import (
    Envelope,
    PublicKey,
    SignatureError,
    SiteKey,
    key_id,
    public_key,
)
from lampyris.transfer.strict import Fields, parse_object

ASSERTION = "client-authentication+jwt"
ENROLMENT = "lampyris-enrolment+jws"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_CODE_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no I, L, O, U to be misread
_CODE = re.compile(f"[{_CODE_ALPHABET}]{{20}}")
_ANY = re.compile(r"[\x21-\x7e]{1,256}")
_LARGEST = 4096
_LAST_SECOND = 1 << 40


@dataclass(frozen=True, slots=True)
class Assertion:
    """A checked assertion: who it is, the number that may be used once, until when that must be remembered, the key."""

    site: str
    jti: str
    expires: int
    key_id: str


@dataclass(frozen=True, slots=True)
class EnrolmentRequest:
    """A checked request: the code as it was given out, and the key that has shown that it is held."""

    code: str = field(repr=False)
    key: PublicKey
    key_id: str


def assertion(site: str, audience: str, key: SiteKey, *, now: int, jti: str, seconds: int = 60) -> str:
    """What a site shows for an access token; `now` in seconds of the epoch, `jti` 16 … 64 random characters."""
    claims = {"iss": site, "sub": site, "aud": audience, "iat": now, "exp": now + seconds, "jti": jti}
    return key.sign(canonical_json(claims).encode(), ASSERTION)


def check_assertion(text: str, audience: str, *, now: int, key_of: Callable[[str, str], PublicKey | None]) -> Assertion:
    """Who stands behind an assertion; `key_of(site, key id)` gives the key, or None.

    Raises SignatureError when it is forged, for another audience, from another time or too long-lived.
    """
    envelope = Envelope.of(text, ASSERTION)
    claims = parse_object(envelope.unverified, largest=_LARGEST, what="the assertion")
    fields = Fields(claims, "the assertion")
    site, named = fields.text("iss", limits.SITE), envelope.key_id
    key = key_of(site, named)
    if key is None:
        raise SignatureError(f"site and key {named[:8]}… do not belong together here")
    envelope.opened(key)
    subject = fields.text("sub", limits.SITE)
    issued, expires = fields.number("iat", 0, _LAST_SECOND), fields.number("exp", 0, _LAST_SECOND)
    jti, meant_for = fields.text("jti", limits.JTI), fields.text("aud", _ANY)
    fields.end()
    if subject != site or meant_for != audience:
        raise SignatureError("the assertion is for another centre, or its iss and sub differ")
    if not now - limits.ASSERTION_SECONDS - limits.SKEW_SECONDS <= issued <= now + limits.SKEW_SECONDS:
        raise SignatureError(
            f"the assertion was issued {now - issued} s ago by the centre's clock: is the site's right?"
        )
    if not issued < expires <= issued + limits.ASSERTION_SECONDS or expires < now - limits.SKEW_SECONDS:
        raise SignatureError(f"the assertion is out of date, or lives longer than {limits.ASSERTION_SECONDS} s")
    return Assertion(site, jti, expires + limits.SKEW_SECONDS, named)


def new_code(random: bytes) -> str:
    """A one-time code of 100 bits for people to type, XXXXX-XXXXX-XXXXX-XXXXX, of 13 random bytes."""
    number = int.from_bytes(random[:13], "big")
    letters = "".join(_CODE_ALPHABET[number >> 5 * place & 31] for place in range(20))
    return "-".join(letters[first : first + 5] for first in range(0, 20, 5))


def plain_code(text: str) -> str:
    """A code as it was typed, in the form that is compared; SignatureError when it can be none."""
    plain = re.sub(r"[\s-]", "", text.upper()).translate(str.maketrans("ILO", "110"))
    if not _CODE.fullmatch(plain):
        raise SignatureError("that is not an enrolment code: expected 20 letters and digits in groups of five")
    return plain


def enrolment_request(code: str, key: SiteKey, *, now: int) -> str:
    """What a site sends with its one-time code, signed with the key that it will be known by."""
    payload = canonical_json({"code": plain_code(code), "iat": now}).encode()
    return key.sign(payload, ENROLMENT, jwk=dict(key.public))


def check_enrolment(text: str, *, now: int) -> EnrolmentRequest:
    """The code and the key of a request, if that key signed it; SignatureError otherwise."""
    envelope = Envelope.of(text, ENROLMENT)
    key = public_key(envelope.header.get("jwk"))
    named = key_id(key)
    if envelope.key_id != named:
        raise SignatureError("kid is not the thumbprint of the key that the request carries")
    fields = Fields(parse_object(envelope.opened(key), largest=_LARGEST, what="the request"), "the request")
    code, issued = plain_code(fields.text("code", _ANY)), fields.number("iat", 0, _LAST_SECOND)
    fields.end()
    if abs(now - issued) > limits.ASSERTION_SECONDS:
        raise SignatureError(f"the request was signed {now - issued} s ago by the centre's clock: is the site's right?")
    return EnrolmentRequest(code, key, named)
