"""Every command that the operator is given is one that there is, with the options and variables that there are."""

import contextlib
import io
import re
import shlex
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import obstore
import pytest
from deployed import DEPLOY, PAGE, ROOT, blocks, compose, filled, lampyris_commands, objects, spoken, units, variables

from lampyris.centre import Settings
from lampyris.centre.store import Store
from lampyris.cli.main import parser

VERBS = ("serve", "work", "node", "up", "centre")
"""Verbs that may be named alone, without what they need to run."""
OURS_TO_FILL = {"STORE", "PUBLIC_URL", "QUEUES"}
OF_OTHERS = {"POSTGRES_PASSWORD", "POSTGRES_USER", "POSTGRES_DB", "PATH", "PYTHONUNBUFFERED"}


@pytest.mark.parametrize(
    ("where", "arguments"), lampyris_commands(), ids=lambda one: " ".join(one) if isinstance(one, list) else one
)
def test_a_command_is_one_that_there_is(where, arguments):
    assert where == "page" or "$" not in "".join(arguments), "nobody sets that variable"
    if arguments in [[verb] for verb in VERBS]:
        arguments = [*arguments, "--help"]
    refused = refusal(arguments)
    assert refused is None, f"{where}: {refused}"


def test_a_command_that_there_is_not_is_found():
    for wrong in (["serve", "--ports", "8470"], ["work", "--queues", "fast"], ["centre", "expel", "x"]):
        assert refusal(wrong) is not None


def refusal(arguments: list[str]) -> str | None:
    """What the command line says against these arguments; None when it takes them, or shows its help."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            parser().parse_args(arguments)
        except SystemExit as end:
            return said.getvalue() if end.code else None
    return None


def test_every_kind_of_process_is_deployed_in_each_way():
    for ways in ("lampyris-", "compose ", "kubernetes "):
        verbs = {arguments[0] for where, arguments in lampyris_commands() if where.startswith(ways)}
        assert {"serve", "work", "node"} <= verbs


def test_the_script_of_the_operator_asks_for_the_command_that_the_tests_read():
    script = (DEPLOY / "systemd" / "lampyris-centre").read_text("utf-8")
    assert 'lampyris centre "$@" --data /var/lib/lampyris --store "$STORE"' in script


def test_a_variable_of_a_unit_has_a_value():
    example = dict(
        line.lstrip("#").split("=", 1)
        for line in (DEPLOY / "systemd" / "centre.env").read_text("utf-8").splitlines()
        if re.match(r"#?[A-Z_]+=", line)
    )
    for unit in units():
        assert variables(unit.command) <= set(unit.environment) | set(example), unit.name


def test_a_variable_is_one_that_the_code_or_its_store_reads():
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b(?==|:| )", "\n".join(_files())))
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    for name in sorted(named - OURS_TO_FILL - OF_OTHERS):
        if name.startswith("AWS_"):
            assert name in READ_BY_THE_STORE
        elif name.startswith(("LAMPYRIS_", "XDG_")):
            assert f'"{name}"' in code, f"nothing reads {name}"


READ_BY_THE_STORE = {
    "AWS_ACCESS_KEY_ID": "who",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "somewhere",
    "AWS_ENDPOINT_URL": "",
}


def test_a_bucket_is_reached_by_the_variables_that_are_named(monkeypatch, tmp_path):
    """A server on loopback sees endpoint, key and region in the request."""
    seen: list[str] = []

    class Bucket(BaseHTTPRequestHandler):
        def do_PUT(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(f"{self.path} {self.headers['Authorization']}")
            self.send_response(200)
            self.send_header("ETag", '"x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            for name, value in (READ_BY_THE_STORE | {"AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true"}).items():
                monkeypatch.setenv(name, value)
            obstore.put(Store(Settings(tmp_path, store="s3://bucket/prefix")).store, "key", b"bytes")
        finally:
            server.shutdown()
            thread.join()
    assert seen[0].startswith("/bucket/prefix/key ")
    assert "Credential=who/" in seen[0]
    assert "/somewhere/s3/" in seen[0]


def test_the_store_of_the_files_is_a_folder_below_the_data(tmp_path):
    (folder,) = {unit.environment["STORE"] for unit in units() if "STORE" in unit.environment}
    assert folder == "file:///var/lib/lampyris/objects"
    assert Store(Settings(tmp_path, store=f"file://{tmp_path}/objects")).folder == tmp_path / "objects"


def test_no_file_holds_a_secret():
    """What looks like one is a variable, empty, a placeholder in capitals, or the place of a file."""
    for text in _files():
        for name, value in re.findall(r"(\w*(?:PASSWORD|SECRET|SECRET_ACCESS_KEY|ACCESS_KEY_ID))[=:] *(\S*)", text):
            assert re.match(r"$|\?|\$\{|secret$|[\"'%`]", value), f"{name} has a value"
        for password in re.findall(r"://[^:/@\s]+:([^@/\s]+)@", text):
            assert password == "PASSWORD" or password.startswith("${"), "a DSN holds a password"


def test_files_that_the_page_names_are_there():
    for line in spoken():
        for word in re.findall(r"\bdeploy/[\w./@-]*[\w/]", line):
            assert (ROOT / word).exists(), f"{word} is on the page and nowhere else"


def test_services_that_the_page_names_are_there():
    there = {unit.name.removesuffix(".service") for unit in units()} | {"postgresql"}
    named = [word for line in spoken() for word in _services(line)]
    assert len(named) > 10
    for name in named:
        unit, at, instance = name.partition("@")
        assert f"{unit}{at}" in there, name
        assert not at or instance == "*" or 1024 < int(instance) < 65536
    services = set(compose()["services"])
    for line in blocks(PAGE.read_text("utf-8")):
        words = shlex.split(filled(line))
        if words[:3] == ["docker", "compose", "exec"]:
            assert words[3] in services
        for scaled in re.findall(r"--scale ([\w-]+)=", line):
            assert scaled in services
        for deployment in re.findall(r"\bdeployment/(\w+) --", line):
            assert deployment in {one["metadata"]["name"] for one in objects("Deployment")}


def _services(line: str) -> list[str]:
    words = shlex.split(filled(line)) if line.startswith(("systemctl ", "journalctl ")) else []
    return [
        word.removesuffix(".service")
        for word in words[1:]
        if not word.startswith("-") and (word.endswith(".service") or word == "postgresql")
    ]


def _files() -> list[str]:
    found = [path for path in DEPLOY.rglob("*") if path.is_file()] + [PAGE]
    return [path.read_text("utf-8") for path in found]
