"""A configuration says in words what is wrong with it; a good one is what the example in the documentation is."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lampyris.model import StorageError
from lampyris.site.config import CentreLink, ConfigError, Dicom, Folder, Stow, load, parse

ROOT = Path(__file__).resolve().parents[2]
GOOD = """
folder = "spool"
[centre]
url = "https://centre.example"
[[pacs]]
kind = "folder"
name = "archive"
folder = "series"
"""


def example() -> str:
    page = (ROOT / "docs" / "site.md").read_text("utf-8")
    return page.partition("```toml\n")[2].partition("```")[0]


def test_the_example_on_the_page_is_a_configuration(tmp_path):
    (tmp_path / "site.toml").write_text(example(), "utf-8")
    found = load(tmp_path / "site.toml")
    assert [type(each) for each in found.pacs] == [Dicom, Stow, Folder]
    assert found.watch is not None
    assert found.policy.policy().protocols == (("*lung*", "sigma/2"), ("qa *", "lossless"))


def test_paths_begin_where_the_file_lies(tmp_path):
    found = parse(tomllib.loads(GOOD), tmp_path)
    assert found.folder == tmp_path / "spool"
    assert found.watch is None
    assert found.identity == "local"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('folder = "spool"', "", "folder is missing"),
        ('folder = "spool"', "folder = 3", "folder: expected Path, found a int"),
        ('folder = "spool"', 'folder = "spool"\nfodler = 1', "fodler is not known; known are folder"),
        ('folder = "spool"', 'folder = "spool"\nidentity = "open"', "identity: expected 'local' | 'sealed'"),
        ('folder = "spool"', 'folder = "spool"\nforward = ["yes"]', "forward holds 'yes'"),
        ('folder = "spool"', 'folder = "spool"\nforward = "pass"', "forward: expected"),
        ("https://", "http://", "without TLS on the loopback interface alone"),
        ("https://", "ftp://", "expected https"),
        ("https://", "https://user:secret@", "do not belong into a URL"),
        ("[[pacs]]", "in_flight = 8\n[[pacs]]", "in_flight is 8: expected 1 … 7"),
        ("[[pacs]]", "poll_s = 0\n[[pacs]]", "poll_s is 0.0: expected more than 0"),
        ("[[pacs]]", "limit_mbit_per_s = -1\n[[pacs]]", "limit_mbit_per_s is -1.0"),
        ("[[pacs]]", 'limit_mbit_per_s = "fast"\n[[pacs]]', "centre.limit_mbit_per_s: expected float, found a str"),
        ("[[pacs]]", "[pacs]", "expected tables"),
        ('kind = "folder"', 'kind = "ftp"', "kind is 'ftp', expected one of dicom, stow, folder"),
        ('kind = "folder"', "", "kind is None"),
        ('name = "archive"', 'name = "Archive 1"', "short names in lower case"),
        ('folder = "series"', "", "pacs 'archive'.folder is missing"),
        ("[[pacs]]", '[watch]\nfolder = "spool/in"\n[[pacs]]', "in one another"),
        ("[[pacs]]", '[watch]\nfolder = "in"\ncomplete = "soon"\n[[pacs]]', "watch.complete: expected 'order'"),
        ("[[pacs]]", '[policy]\nclinical = "sigma/9"\n[[pacs]]', "policy.clinical: expected 'lossless'"),
        ("[[pacs]]", '[policy.protocols]\n"*" = "sigma/9"\n[[pacs]]', "policy: coding 'sigma/9' is not known"),
        ("[[pacs]]", "[policy]\nprotocols = 3\n[[pacs]]", "policy.protocols: expected"),
        ("[[pacs]]", "[spool]\nfree_gb = -1\n[[pacs]]", "spool.free_gb is -1.0: expected at least 0"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, before, after, message):
    assert before in GOOD
    with pytest.raises(ConfigError) as found:
        parse(tomllib.loads(GOOD.replace(before, after, 1)), tmp_path)
    assert message in str(found.value)
    assert "secret" not in str(found.value)


def test_a_dicom_peer_has_a_port_and_a_title(tmp_path):
    with pytest.raises(ConfigError, match="port 0"):
        Dicom("main", "pacs", 0, "PACS")
    with pytest.raises(ConfigError, match="17 characters"):
        Dicom("main", "pacs", 104, "P" * 17)


def test_two_pacs_have_two_names_and_there_is_one_at_least(tmp_path):
    values = tomllib.loads(GOOD)
    for pacs in ([], values["pacs"] * 2):
        with pytest.raises(ConfigError, match="at least one"):
            parse(values | {"pacs": pacs}, tmp_path)


def test_a_file_that_is_no_configuration_is_told(tmp_path):
    with pytest.raises(StorageError, match="cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("folder = ")
    with pytest.raises(ConfigError, match="no TOML"):
        load(tmp_path / "bad.toml")


def test_the_agent_is_light():
    """What an old PC has to load: no compiler, no science, no database."""
    heavy = "{'numba', 'scipy', 'llvmlite', 'sqlite3', 'psycopg', 'fastapi', 'matplotlib', 'onnxruntime'}"
    code = f"import sys, lampyris.cli.site; print(sorted({heavy} & set(sys.modules)), len(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("[] "), found.stdout


@pytest.mark.parametrize(
    ("mbit_per_s", "mebibytes"), [(0, 8), (0.1, 1), (16.7, 1), (50, 2), (100, 4), (140, 8), (1e4, 8)]
)
def test_a_slow_line_gets_small_chunks(mbit_per_s, mebibytes):
    """50 Mbit/s carry 3.1 MB in half a second, of which the next power of two below is 2 MiB."""
    link = CentreLink("https://centre.example", link_mbit_per_s=mbit_per_s)
    assert link.chunk_bytes == mebibytes << 20
