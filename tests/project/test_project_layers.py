"""The layering holds, and each of its rules would notice a violation: one is planted for each."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=root, env={"PYTHONPATH": "src"}, capture_output=True, text=True, check=False)


@pytest.fixture
def planted(tmp_path):
    """A copy of the source into which a violation can be planted."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def plant(file: str, line: str) -> Path:
        target = tmp_path / "src" / "lampyris" / file
        target.parent.mkdir(exist_ok=True)
        target.write_text((target.read_text() if target.exists() else "") + f"\n{line}\n")
        return tmp_path

    return plant


def test_the_tree_keeps_its_contracts():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert "5 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("physics/tube.py", "import lampyris.recon", "The journey flows one way"),
        ("recon/run.py", "import lampyris.correct.chain", "The journey flows one way"),
        ("report/page.py", "import lampyris.dose_study.plan", "The journey flows one way"),
        ("helpers/__init__.py", "VALUE = 1", "The journey flows one way"),
        ("quality/dose.py", "import pydicom", "Science does no I/O"),
        ("recon/run.py", "import lampyris.durable", "Science does no I/O"),
        ("model/volume.py", "import scipy.ndimage", "The model needs numpy alone"),
        ("transfer/tokens.py", "import scipy.stats", "The site stays light"),
        ("site/agent.py", "import psycopg", "The site stays light"),
        ("raw/read.py", "import numba", "The site stays light"),
        ("site/agent.py", "import lampyris.centre.settings", "The journey flows one way"),
        ("model/arrays.py", "import lampyris.model.scan", "No cycles inside a package"),
        ("projector/simd.py", "import lampyris.projector.backprojection", "No cycles inside a package"),
    ],
)
def test_a_planted_violation_is_noticed(planted, file, line, contract):
    result = lint(planted(file, line))
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{contract} BROKEN" in result.stdout
