"""The conformance statement says what the program does: its tables are those that are made of it."""

from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables(tool) -> ModuleType:
    return tool("conformance_tables")


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
