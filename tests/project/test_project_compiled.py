"""Compiled code belongs to the source that it was compiled from."""

import os
import subprocess
import sys
from pathlib import Path

import lampyris


def make(package: Path) -> None:
    (package / "inner").mkdir(parents=True)
    (package / "inner" / "a.py").write_text("x = 1\n")
    (package / "b.py").write_text("y = 2\n")


def test_any_change_of_any_file_gives_another_folder(tmp_path):
    make(tmp_path / "one")
    make(tmp_path / "two")
    first = lampyris.compiled_code_folder(tmp_path / "one")
    assert lampyris.compiled_code_folder(tmp_path / "two") == first
    (tmp_path / "two" / "inner" / "a.py").write_text("x = 3\n")
    assert lampyris.compiled_code_folder(tmp_path / "two") != first
    (tmp_path / "one" / "b.py").rename(tmp_path / "one" / "c.py")
    assert lampyris.compiled_code_folder(tmp_path / "one") != first


def test_kernels_are_kept_there_and_the_operators_own_choice_is_respected(tmp_path):
    code = "import lampyris.projector.simd, numba; print(numba.config.CACHE_DIR)"
    settings = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    run = {"capture_output": True, "text": True, "check": True}
    ours = subprocess.run([sys.executable, "-c", code], env=settings | {"XDG_CACHE_HOME": str(tmp_path)}, **run)
    assert ours.stdout.strip().startswith(str(tmp_path / "lampyris"))
    theirs = subprocess.run([sys.executable, "-c", code], env=settings | {"NUMBA_CACHE_DIR": str(tmp_path)}, **run)
    assert theirs.stdout.strip() == str(tmp_path)
