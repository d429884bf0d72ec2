"""The files of `deploy/` and the operator's page → the commands, variables and names in them."""

import re
import shlex
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PAGE = ROOT / "docs" / "operator.md"
SCRIPTS = {"lampyris-centre": "lampyris centre {} --data /var/lib/lampyris --store file:///objects"}
"""Commands of ours that stand for longer ones."""
_VARIABLE = re.compile(r"\$\{(\w+)(?::[-?][^}]*)?\}|\$\((\w+)\)|\$(\w+)")
_EXAMPLES = {
    "STORE": "file:///objects",
    "PUBLIC_URL": "https://centre.example",
    "QUEUES": "stat",
}


class Unit:
    """A systemd unit; entries that occur more than once are all kept."""

    def __init__(self, path: Path) -> None:
        self.name, self.text = path.name, path.read_text("utf-8")
        joined = self.text.replace("\\\n", " ")
        pairs = re.findall(r"^(\w+)=(.*)$", joined, re.MULTILINE)
        self.values: dict[str, list[str]] = {}
        for name, value in pairs:
            self.values.setdefault(name, []).append(value.strip())

    def __getitem__(self, name: str) -> str:
        (value,) = self.values[name]
        return value

    @property
    def command(self) -> str:
        return self["ExecStart"]

    @property
    def environment(self) -> dict[str, str]:
        return dict(each.split("=", 1) for value in self.values.get("Environment", []) for each in value.split())


def units() -> list[Unit]:
    return [Unit(path) for path in sorted((DEPLOY / "systemd").glob("*.service"))]


def hardening() -> RawConfigParser:
    parser = RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "systemd" / "lampyris-.service.d" / "hardening.conf", "utf-8")
    return parser


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text("utf-8"))


def objects(kind: str) -> list[dict[str, Any]]:
    """All Kubernetes objects of a kind, in every file that the kustomization names."""
    folder = DEPLOY / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))["resources"]
    return [
        one for name in listed for one in yaml.safe_load_all((folder / name).read_text("utf-8")) if one["kind"] == kind
    ]


def blocks(text: str) -> list[str]:
    """Lines of every shell block of a page."""
    found = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in found for line in block.splitlines() if line.strip()]


def spoken() -> list[str]:
    """Everything on the page that is set as code: whole lines of blocks, and words in backticks."""
    text = PAGE.read_text("utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return blocks(text) + re.findall(r"`([^`\n]+)`", prose)


def filled(command: str) -> str:
    """A command with our variables and specifiers replaced by examples; others are left as they are."""
    plain = command.replace("%i", "9471").replace("%d", "/run/credentials")
    return _VARIABLE.sub(lambda found: _EXAMPLES.get(next(filter(None, found.groups())), found[0]), plain)


def variables(command: str) -> set[str]:
    return {next(filter(None, groups)) for groups in _VARIABLE.findall(command)}


def lampyris_commands() -> list[tuple[str, list[str]]]:
    """(where it is said, arguments) of every `lampyris …` that is run or shown."""
    found = [(unit.name, shlex.split(filled(unit.command))[1:]) for unit in units()]
    for name, service in compose()["services"].items():
        if service["image"].startswith("lampyris"):
            found.append((f"compose {name}", [filled(one) for one in service["command"]]))
    for each in objects("Deployment"):
        for container in each["spec"]["template"]["spec"]["containers"]:
            found.append((f"kubernetes {each['metadata']['name']}", [filled(one) for one in container["args"]]))
    found += [("page", arguments) for line in spoken() if (arguments := _said(line)) is not None]
    return found


def _said(line: str) -> list[str] | None:
    """Arguments of lampyris in a line of the page, None where it is not run."""
    try:
        words = shlex.split(filled(line))
    except ValueError:  # prose with an apostrophe
        return None
    if "sh" in words and "-c" in words:
        words = shlex.split(words[words.index("-c") + 1])
    if words and words[0] in SCRIPTS and len(words) > 1:
        words = shlex.split(SCRIPTS[words[0]].format(shlex.join(words[1:])))
    if words[:3] == ["docker", "compose", "exec"]:
        words = words[4:]
    if words[:2] == ["sudo", "-u"]:
        words = [words[3].removeprefix("/opt/lampyris/bin/"), *words[4:]]
    return words[1:] if words[:1] == ["lampyris"] and len(words) > 1 else None
