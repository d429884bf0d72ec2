"""Signatures, assertions and enrolment: what another key, another time or another purpose made is refused."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lampyris.model import FormatError, StorageError
from lampyris.transfer import (
    ManifestError,
    SignatureError,
    SiteKey,
    assertion,
    check_assertion,
    check_enrolment,
    enrolment_request,
    key_id,
    new_code,
    plain_code,
    public_key,
    sign_manifest,
    verify_manifest,
)

NOW = 1_795_000_000
JTI = "abcdefghijklmnop"
HERE = "https://centre.example"


def encoded(value) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(text, *, header=None, payload=None, signature=None):
    """The same message with one of its three pieces replaced."""
    pieces = text.split(".")
    for place, piece in enumerate((header, payload, signature)):
        if piece is not None:
            pieces[place] = encoded(piece)
    return ".".join(pieces)


def header_of(text):
    return json.loads(base64.urlsafe_b64decode(text.split(".")[0] + "=="))


def test_a_key_is_named_by_the_thumbprint_of_rfc_8037(key):
    """The key and its thumbprint stand in RFC 8037, appendix A."""
    assert key.key_id == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert key_id(key.public) == key.key_id


def test_a_signed_manifest_is_read_with_the_digest_of_what_was_signed(manifest, key):
    found = verify_manifest(sign_manifest(manifest, key), {key.key_id: key.public}.get)
    assert (found.manifest, found.digest, found.key_id) == (manifest, manifest.digest(), key.key_id)


def test_the_header_says_what_the_page_says(manifest, key):
    assert header_of(sign_manifest(manifest, key)) == {
        "alg": "Ed25519", "typ": "lampyris-manifest+jws", "kid": key.key_id}  # fmt: skip


def test_a_manifest_without_parts_commits_nothing(manifest, key):
    with pytest.raises(ManifestError, match="0 parts"):
        sign_manifest(manifest.skeleton(), key)
    text = key.sign(manifest.skeleton().to_json(), "lampyris-manifest+jws")
    with pytest.raises(ManifestError, match="no parts"):
        verify_manifest(text, {key.key_id: key.public}.get)


def forgeries(text, other_key):
    head = header_of(text)
    yield "another payload", forged(text, payload=b"{}")
    yield "another signature", forged(text, signature=bytes(64))
    yield "no signature", text.rsplit(".", 1)[0] + "."
    yield "alg none", forged(text, header=head | {"alg": "none"}, signature=b"")
    yield "alg HS256", forged(text, header=head | {"alg": "HS256"})
    yield "alg missing", forged(text, header={"typ": head["typ"], "kid": head["kid"]})
    yield "unencoded payload", forged(text, header=head | {"b64": False, "crit": ["b64"]})
    yield "unknown crit", forged(text, header=head | {"crit": ["x"]})
    yield "another key's id", forged(text, header=head | {"kid": other_key.key_id})
    yield "kid that is a path", forged(text, header=head | {"kid": "../key"})
    yield "kid that is a list", forged(text, header=head | {"kid": [head["kid"]]})
    yield "another typ", forged(text, header=head | {"typ": "JWT"})
    yield "header that is a list", forged(text, header=[1])
    yield "two pieces", ".".join(text.split(".")[:2])
    yield "five pieces", text + ".a.b"
    yield "not ascii", "é" + text
    yield "empty", ""
    yield "too long", "a" * 6_000_000


def test_no_forged_manifest_is_read(manifest, key, other_key):
    keys = {key.key_id: key.public, other_key.key_id: other_key.public}
    for name, text in forgeries(sign_manifest(manifest, key), other_key):
        with pytest.raises(SignatureError):
            pytest.fail(f"{name}: {verify_manifest(text, keys.get)}")


def test_a_key_of_another_site_commits_nothing(manifest, key):
    with pytest.raises(SignatureError, match="not one of this site's"):
        verify_manifest(sign_manifest(manifest, key), {}.get)


def test_an_assertion_passes_for_no_manifest(key):
    text = assertion("a", HERE, key, now=NOW, jti=JTI)
    with pytest.raises(SignatureError, match="typ"):
        verify_manifest(text, {key.key_id: key.public}.get)


def keys_of(site, key):
    return lambda named_site, named_key: key.public if (named_site, named_key) == (site, key.key_id) else None


def test_an_assertion_tells_who_it_is(key):
    found = check_assertion(
        assertion("site-a", HERE, key, now=NOW, jti=JTI), HERE, now=NOW + 3, key_of=keys_of("site-a", key)
    )
    assert (found.site, found.jti, found.expires) == ("site-a", JTI, NOW + 60 + 60)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"now": NOW - 400}, "issued"),
        ({"now": NOW + 62}, "issued"),
        ({"now": NOW - 130}, "out of date"),
        ({"seconds": 301}, "longer"),
        ({"seconds": 0}, "out of date"),
        ({"audience": "https://elsewhere.example"}, "another centre"),
        ({"site": "site-b"}, "do not belong together"),
    ],
)
def test_an_assertion_of_another_time_or_place_is_refused(key, changes, why):
    said = {"site": "site-a", "audience": HERE, "key": key, "now": NOW, "jti": JTI} | changes
    with pytest.raises(SignatureError, match=why):
        check_assertion(assertion(**said), HERE, now=NOW, key_of=keys_of("site-a", key))


@pytest.mark.parametrize("jti", ["short", "x" * 65, "abcdefghijklmno\n"])
def test_a_number_used_once_has_a_form(key, jti):
    with pytest.raises(ManifestError, match="jti"):
        check_assertion(assertion("a", HERE, key, now=NOW, jti=jti), HERE, now=NOW, key_of=keys_of("a", key))


def test_no_forged_assertion_is_believed(key, other_key):
    for name, text in forgeries(assertion("a", HERE, key, now=NOW, jti=JTI), other_key):
        with pytest.raises((SignatureError, ManifestError)):
            pytest.fail(f"{name}: {check_assertion(text, HERE, now=NOW, key_of=lambda *_: key.public)}")


def test_a_site_cannot_sign_for_another(key):
    text = assertion("a", HERE, key, now=NOW, jti=JTI)
    claims = {"iss": "a", "sub": "b", "aud": HERE, "iat": NOW, "exp": NOW + 60, "jti": JTI}
    with pytest.raises(SignatureError, match="iss and sub"):
        check_assertion(key.sign(json.dumps(claims).encode(), header_of(text)["typ"]), HERE, now=NOW,
                        key_of=keys_of("a", key))  # fmt: skip


def test_an_enrolment_shows_that_the_key_is_held(key):
    code = new_code(bytes(range(1, 14)))
    found = check_enrolment(enrolment_request(code.lower(), key, now=NOW), now=NOW + 299)
    assert (found.code, found.key, found.key_id) == (code.replace("-", ""), key.public, key.key_id)


def test_an_enrolment_with_somebody_elses_key_is_refused(key, other_key):
    text = enrolment_request("0" * 20, key, now=NOW)
    stolen = forged(text, header=header_of(text) | {"jwk": dict(other_key.public), "kid": other_key.key_id})
    with pytest.raises(SignatureError, match="does not hold"):
        check_enrolment(stolen, now=NOW)


def test_an_old_enrolment_is_refused(key):
    with pytest.raises(SignatureError, match="301 s ago"):
        check_enrolment(enrolment_request("0" * 20, key, now=NOW), now=NOW + 301)


@given(st.binary(min_size=13, max_size=16))
def test_a_code_is_read_as_people_misread_it(random):
    code = new_code(random)
    assert plain_code(code) == plain_code(code.lower().replace("0", "o").replace("1", "l").replace("-", " "))
    assert len(plain_code(code)) == 20


def test_codes_of_different_random_bytes_differ():
    assert len({new_code(bytes([value] * 13)) for value in range(256)}) == 256


OKP = {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43}
NO_KEYS = [None, [], {}, {"kty": "oct", "k": "AA"}, OKP | {"crv": "X25519"}, OKP | {"x": "AAAA"}, OKP | {"x": 7}]


@pytest.mark.parametrize("jwk", NO_KEYS)
def test_only_a_public_ed25519_key_is_a_key(jwk):
    with pytest.raises(SignatureError):
        public_key(jwk)


def test_a_private_key_is_never_taken_for_a_public_one(key):
    with pytest.raises(SignatureError):
        public_key(key.key.as_dict(private=True))


def test_a_key_file_is_its_owners_alone(tmp_path, key):
    place = tmp_path / "site.pem"
    key.save(place)
    assert place.stat().st_mode & 0o777 == 0o600
    assert SiteKey.load(place).key_id == key.key_id
    with pytest.raises(StorageError, match="cannot be written"):
        key.save(place)
    place.chmod(0o640)
    with pytest.raises(StorageError, match="mode 640"):
        SiteKey.load(place)


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_holds_no_key_is_refused(tmp_path, content):
    place = tmp_path / "x.pem"
    place.write_bytes(content)
    place.chmod(0o600)
    with pytest.raises(FormatError):
        SiteKey.load(place)


def test_a_public_key_file_is_no_site_key(tmp_path, key):
    place = tmp_path / "x.pem"
    place.write_bytes(key.key.as_pem(private=False))
    place.chmod(0o600)
    with pytest.raises(FormatError, match="private"):
        SiteKey.load(place)
    with pytest.raises(StorageError, match="cannot be read"):
        SiteKey.load(tmp_path / "none.pem")


def test_neither_key_nor_code_shows_in_a_representation(key):
    request = check_enrolment(enrolment_request("ABCDE" * 4, key, now=NOW), now=NOW)
    assert "ABCDE" not in repr(request)
    assert str(key.key.as_dict(private=True)["d"]) not in repr(key)
