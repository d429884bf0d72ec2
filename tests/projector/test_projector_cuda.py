"""The CUDA engine where there is no card: its kernels in Numba's simulator, and what a compiler makes of them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = "transpose and default and (curved or helical)"
"""Contract tests that the simulator, a Python thread for each of the card's, gets through in half a minute."""


def in_simulator(*arguments: str) -> str:
    """What pytest says of the contract with the engine in the simulator."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT, env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_the_kernels_keep_the_contract_in_the_simulator() -> None:
    told = in_simulator("tests/contracts/test_contract_projector.py", "-k", f"cuda and {QUICK}")
    assert "skipped" not in told
    assert int(re.search(r"(\d+) passed", told)[1]) == 2  # type: ignore[index]


def test_the_kernels_backproject_voxel_by_voxel_in_the_simulator() -> None:
    told = in_simulator("tests/projector/test_projector_backprojection.py", "-k", "cuda")
    assert "skipped" not in told
    assert int(re.search(r"(\d+) passed", told)[1]) == 7  # type: ignore[index]


@pytest.mark.slow
def test_the_kernels_keep_the_whole_contract_in_the_simulator() -> None:
    told = in_simulator("tests/contracts/test_contract_projector.py", "-k", "cuda", "-m", "slow or not slow")
    assert "skipped" not in told


def measured(*arguments: str) -> str:
    """What the measuring script prints in the simulator: its figures mean nothing, but that the engine is right."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", "--quick", *arguments],
        cwd=ROOT, env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_measuring_script_judges_and_times_the_pair_in_the_simulator() -> None:
    told = measured("--only", "pairs")
    off = [float(each) for each in re.findall(r"(\d\.\de[-+]\d\d)", told)]
    assert len(off) == 8
    assert max(off) < 1e-5
    assert told.count(" × |") == 6


@pytest.mark.slow
def test_the_measuring_script_goes_from_a_container_to_images_in_the_simulator() -> None:
    """So that it does on a card: a cone beam, with ASTRA or the reason why without, and recipes."""
    told = measured("--only", "cone", "recipes")
    assert len(re.findall(r"^\| .* \| ours \|", told, re.MULTILINE)) == 3
    assert ("ASTRA is left out" in told) != (told.count("| ASTRA |") == 3)
    rows = dict(re.findall(r"^\| (routine|swift|micro) \| (.*) \|$", told, re.MULTILINE))
    assert set(rows) == {"routine", "swift", "micro"}
    assert rows.pop("micro").startswith("left out")
    for row in rows.values():
        assert "more than" not in row
        assert float(row.split(" | ")[-1]) > 0


def test_figures_of_the_simulator_are_not_kept(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", "--quick", "--write", str(tmp_path / "figures.json")],
        cwd=ROOT, env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (69, "")
    assert "would be taken for a card's" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_card_the_measuring_script_says_so_and_prints_no_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu"],
        cwd=ROOT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 69
    assert "cannot run" in done.stderr
    assert "|" not in done.stdout


@pytest.mark.judge
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_the_hot_loops_compile_without_float64(capability: tuple[int, int]) -> None:
    """PTX for the A100 and H100 generations: gathering holds no float64 instruction, and ptxas spills no register."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", "--compile", f"{capability[0]}.{capability[1]}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 69:
        reason = done.stderr.strip().splitlines()[-1]
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    assert done.returncode == 0, done.stderr[-2000:]
    table = {row[0]: row[1:] for row in re.findall(r"\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \|", done.stdout)}
    hot = {name: row for name, row in table.items() if name.startswith(("gather", "sum"))}
    assert len(hot) == 5
    for name, (doubles, registers, spilled) in hot.items():
        assert (name, doubles, spilled) == (name, "0", "0")
        assert 0 < int(registers) <= 128
