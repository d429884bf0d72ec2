"""Engines by name: given, unavailable with the reason, or unknown with the list."""

import numba
import pytest

from lampyris.model import EngineUnavailable, InputError
from lampyris.projector import available, load


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_a_usable_engine_is_loaded_under_its_name(name: str) -> None:
    assert load(name).name == name


def test_an_engine_that_cannot_run_says_why() -> None:
    with pytest.raises(EngineUnavailable, match="ships no CUDA engine") as refused:
        load("cuda")
    assert not refused.value.retry


def test_an_unknown_engine_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match="'gpu' is none of cpu, reference, cuda"):
        load("gpu")


def test_doctor_learns_what_is_usable_and_how() -> None:
    engines = {each.name: each for each in available()}
    assert [name for name, each in engines.items() if each.usable] == ["cpu", "reference"]
    assert f"{numba.get_num_threads()} threads" in engines["cpu"].reason
    assert any(level in engines["cpu"].reason for level in ("AVX-512", "AVX2", "portable"))
    assert "no CUDA engine" in engines["cuda"].reason
