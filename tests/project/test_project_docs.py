"""What the documents show runs: every Python block of README and docs, and every example, in a fresh folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    """(page, all its Python blocks as one program) for each page that has any."""
    found = [(page.name, "\n".join(BLOCK.findall(page.read_text("utf-8")))) for page in PAGES]
    return [(name, code) for name, code in found if code]


def execute(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("page", "code"), blocks(), ids=lambda value: value if value.endswith(".md") else "")
def test_a_page_runs(page, code, tmp_path):
    done = execute(code, tmp_path)
    assert done.returncode == 0, f"{page}: {done.stderr}"


@pytest.mark.parametrize("example", sorted((ROOT / "docs" / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_runs(example, tmp_path):
    done = execute(example.read_text("utf-8"), tmp_path)
    assert done.returncode == 0, done.stderr


def test_there_is_code_in_readme_and_path():
    assert {"README.md", "path.md"} <= {name for name, _ in blocks()}


def test_every_link_to_a_file_leads_somewhere():
    for page in [*PAGES, *(ROOT / "docs" / "decisions").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
