"""A manifest in which no two things are equal, and a key that is the same in every run."""

import pytest
from joserfc.jwk import OKPKey

from lampyris.transfer import Chunk, Manifest, Part, SiteKey

SCAN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def manifest() -> Manifest:
    first, second = Chunk.of(b"abc" * 7), Chunk.of(b"defg" * 5)
    return Manifest(
        scan=SCAN,
        site="st-anna-ct2",
        started="2026-11-21T08:15:02.5Z",
        format="lraw",
        parts=(Part("scan/turn-0", (first, second), (0, 97)), Part("scan/air", (second,))),
        priority="stat",
        recipe="routine-lung",
        packing=(("codec", "htj2k"), ("step_sigma", 0.25)),
        study=(("PatientID", "7f1c22"), ("PatientSex", "F")),
        sealed="eyJlbmMi",
        content="ab" * 32,
    )


@pytest.fixture(scope="session")
def key() -> SiteKey:
    return SiteKey(OKPKey.import_key({"kty": "OKP", "crv": "Ed25519",
                                      "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
                                      "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}))  # fmt: skip


@pytest.fixture(scope="session")
def other_key() -> SiteKey:
    return SiteKey.generate()
