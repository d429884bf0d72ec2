"""The conformance statement says what the program does: its tables are those that are made of it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conformance_tables", ROOT / "tools" / "conformance_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["conformance_tables"] = module
    spec.loader.exec_module(module)
    return module


def test_the_statement_is_what_the_program_does(tables):
    page = tables.PAGE.read_text("utf-8")
    made = tables.blocks()
    assert tables.places(page) == set(made)
    assert tables.written(page, made) == page, "run `python tools/conformance_tables.py` and read what it changed"


def test_a_table_that_drifted_is_found(tables):
    page = tables.PAGE.read_text("utf-8")
    drifted = page.replace("1.2.840.10008.3.1.2.3.3", "1.2.840.10008.3.1.2.3.4")
    assert drifted != page
    assert tables.written(drifted, tables.blocks()) == page
