"""Images on the card where there is no card: `test_recon_cuda` in Numba's simulator."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("name", "least"), [("test_recon_cuda.py", 13), ("test_recon_cuda_iterations.py", 5)])
def test_whole_reconstructions_run_in_the_simulator(name: str, least: int) -> None:
    """One process for many: the simulator has a Python thread for each of the card's."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/recon/{name}"],
        cwd=Path(__file__).parents[2], env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= least  # type: ignore[index]
