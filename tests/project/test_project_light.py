"""A site's installation: its packages alone are enough for the agent, and what it cannot do it says."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "lampyris"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OF_A_SITE = ("site", "raw", "transfer", "model", "durable.py", "cli/__init__.py", "cli/site.py", "cli/words.py")

BLOCKED = """
import importlib, pkgutil, sys

allowed = set(sys.argv[1].split(","))

class Only:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return self.finder.find_spec(name, path, target) if name.partition(".")[0] in allowed else None

sys.meta_path[:] = [Only(each) for each in sys.meta_path]
"""
ALL_OF_IT = """
for package in ("site", "raw", "transfer", "model"):
    top = importlib.import_module(f"lampyris.{package}")
    for each in pkgutil.walk_packages(top.__path__, f"lampyris.{package}."):
        importlib.import_module(each.name)
print("all of it")
"""
COMMAND = """
from lampyris import cli

raise SystemExit(cli.main(sys.argv[2:]))
"""


def needed(names: list[str]) -> set[str]:
    """Every distribution that these requirements bring, without their extras."""
    found: set[str] = set()
    left = [Requirement(name) for name in names]
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        if name in found or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        left += [Requirement(text) for text in requires(name) or ()]
    return found


@pytest.fixture(scope="module")
def allowed() -> set[str]:
    """Top-level modules that a site's installation has."""
    brought = needed(PROJECT["dependencies"])
    tops = {
        top for top, names in packages_distributions().items() if brought & {canonicalize_name(name) for name in names}
    }
    return tops | set(sys.stdlib_module_names) | {"lampyris"}


def blocked(allowed: set[str], program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program where nothing else can be imported."""
    command = [sys.executable, "-c", BLOCKED + program, ",".join(sorted(allowed)), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_nothing_heavy_comes_with_it(allowed):
    heavy = {
        "numba",
        "scipy",
        "llvmlite",
        "onnxruntime",
        "matplotlib",
        "PIL",
        "psycopg",
        "fastapi",
        "granian",
        "obstore",
    }
    assert not heavy & allowed
    assert {"numpy", "zarr", "httpx", "pynetdicom"} <= allowed


def test_every_module_of_a_site_can_be_imported(allowed):
    done = blocked(allowed, ALL_OF_IT)
    assert (done.returncode, done.stdout) == (0, "all of it\n"), done.stderr


def test_nothing_else_is_imported_later_either(allowed):
    """Also within functions, where only the journey would notice."""
    for place in OF_A_SITE:
        for path in sorted((SOURCE / place).rglob("*.py")) if (SOURCE / place).is_dir() else [SOURCE / place]:
            assert imported(path) <= allowed, path


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--version"], 0, PROJECT["version"]),
        (["site", "--help"], 0, "lampyris site run"),
        (["site", "status", "-c", "none.toml"], 69, "none.toml cannot be read"),
        (["recon", "scan.lraw", "-o", "series"], 69, "pip install 'lampyris[centre]'"),
        (["serve"], 69, "pip install 'lampyris[centre]'"),
        ([], 69, "lampyris site --help"),
    ],
)
def test_it_does_what_a_site_does_and_says_what_it_cannot(allowed, words, code, said):
    done = blocked(allowed, COMMAND, *words)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr


def test_the_centre_is_an_extra_that_the_developers_have():
    extras = PROJECT["optional-dependencies"]
    assert "lampyris[centre]" in extras["dev"]
    for place in ("Makefile", "deploy/Dockerfile", "docs/operator.md"):
        assert "'.[centre" in (ROOT / place).read_text("utf-8"), place
