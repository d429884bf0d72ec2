"""Fixtures that every test may ask for: real data, independent judges, a scan that is lopsided on purpose."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lampyris.model import FocalSpotShift, Gantry, Geometry

ROOT = Path(__file__).resolve().parents[1]


def absent(what: str, reason: str) -> None:
    """Skip aloud; in CI, where judges and data are always there, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is absent in CI: {reason}")
    pytest.skip(f"{what} is absent: {reason}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project (or $LAMPYRIS_DATA)."""
    folder = Path(os.environ.get("LAMPYRIS_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        absent("shared data", "no ../shared/data beside the project and LAMPYRIS_DATA is not set")
    return folder


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Path of an independent program such as dciodvfy, or a loud skip."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            absent(name, "not on PATH; tools/install-judges.sh installs the Debian packages")
        return str(path)

    return find


@pytest.fixture(scope="session")
def package() -> Callable[[str], None]:
    """Ask for an independent Python package such as itk or astra, or skip aloud."""

    def need(name: str) -> None:
        if importlib.util.find_spec(name) is None:
            absent(f"package {name}", "pip install 'lampyris[judge]'")

    return need


@pytest.fixture(scope="session")
def npm_package() -> Callable[[str], Path]:
    """Folder of a package that `web/package-lock.json` names, or a loud skip."""

    def find(name: str) -> Path:
        folder = ROOT / "web" / "node_modules" / name
        if not folder.is_dir():
            absent(name, "not in web/node_modules; cd web && npm ci --ignore-scripts")
        return folder

    return find


@pytest.fixture(scope="session")
def tool() -> Callable[[str], ModuleType]:
    """A program of the folder tools, as a module."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261121)


@pytest.fixture
def lopsided_gantry() -> Gantry:
    """Nothing square, centred, symmetric or 1; curved."""
    return Gantry(541.0, 949.0, 7, 61, (1.7, 2.9), True, 2.6, 31.25)


@pytest.fixture
def lopsided_helix(lopsided_gantry: Gantry) -> Geometry:
    """A little more than two turns, reversed table, flying focal spot in plane and in z."""
    views = 97
    spots = FocalSpotShift.alternating(views, (-0.0009, 0.0011), (-0.7, 0.5), (0.3, -0.2))
    return Geometry.helical(
        lopsided_gantry,
        views=views,
        views_per_turn=41,
        table_feed_mm=-6.3,
        start_angle_deg=23.0,
        start_axial_mm=11.0,
        shift=spots,
    )


class Kept(dict[tuple[str, int], Any]):
    """A shelf in memory that counts what was taken from it, and on which nothing is put twice."""

    taken = 0

    def holds(self, what, views):
        return (what, views) in self

    def load(self, what, views):
        self.taken += (what, views) in self
        return self.get((what, views))

    def keep(self, what, views, arrays):
        assert (what, views) not in self, "write-once"
        self[what, views] = dict(arrays)


@pytest.fixture
def kept() -> type[Kept]:
    """What is made early, in memory."""
    return Kept
