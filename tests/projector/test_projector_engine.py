"""Engines by name: given, unavailable with the reason, or unknown with the list."""

import sys

import numba
import pytest

from lampyris.model import EngineUnavailable, InputError
from lampyris.projector import available, load


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_a_usable_engine_is_loaded_under_its_name(name: str) -> None:
    assert load(name).name == name


def test_an_engine_that_cannot_run_says_why() -> None:
    (cuda,) = (each for each in available() if each.name == "cuda")
    if cuda.usable:
        pytest.skip(f"there is a card here: {cuda.reason}")
    with pytest.raises(EngineUnavailable, match=r"no CUDA driver|no card|not installed") as refused:
        load("cuda")
    assert not refused.value.retry
    assert str(refused.value) == cuda.reason


def test_without_its_library_the_cuda_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("lampyris.projector.cuda")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba.cuda", None)
    monkeypatch.delattr(numba, "cuda", raising=False)
    with pytest.raises(EngineUnavailable, match="pip install"):
        load("cuda")


def test_an_unknown_engine_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match="'gpu' is none of cpu, reference, cuda"):
        load("gpu")


def test_doctor_learns_what_is_usable_and_how() -> None:
    engines = {each.name: each for each in available()}
    assert list(engines) == ["cpu", "reference", "cuda"]
    assert engines["cpu"].usable
    assert engines["reference"].usable
    assert f"{numba.get_num_threads()} threads" in engines["cpu"].reason
    assert any(level in engines["cpu"].reason for level in ("AVX-512", "AVX2", "portable"))
