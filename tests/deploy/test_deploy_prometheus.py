"""Scrape configuration and alarms: every metric, label and state in them is one that a process of the centre tells."""

import re

import pytest
import yaml
from deployed import DEPLOY, PAGE, ROOT, Unit

from lampyris.centre.observe.metrics import Metrics
from lampyris.centre.settings import Settings
from lampyris.transfer import PRIORITIES

FOLDER = DEPLOY / "prometheus"
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SELECTOR = re.compile(r"\b(lampyris_\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r'(\w+)(=~|=)"([^"]*)"')


def told() -> dict[str, set[str]]:
    """Labels of every series that a process of the centre tells, by its name in Prometheus."""
    metrics, found = Metrics(), {}
    kinds = {family.name: family.type for family in metrics.registry.collect()}
    for collector in vars(metrics).values():
        if hasattr(collector, "_labelnames"):
            for suffix in SUFFIXES[kinds[collector._name]]:
                found[collector._name + suffix] = set(collector._labelnames)
    assert len(kinds) <= len(found)
    return found


def rules() -> list[dict]:
    (group,) = yaml.safe_load((FOLDER / "alarms.yml").read_text("utf-8"))["groups"]
    return group["rules"]


def jobs() -> dict[str, dict]:
    return {
        one["job_name"]: one for one in yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    }


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alarm_asks_for_what_there_is(rule):
    known, expression = told(), rule["expr"]
    asked = SELECTOR.findall(expression)
    assert asked or expression.startswith("up{job=")
    for name, selected in asked:
        assert name in known
        for label, _, values in LABEL.findall(selected):
            assert label in known[name]
            for value in values.split("|"):
                assert value in states(name, label), f"no {label} {value!r}"
    for grouped in re.findall(r"\bby \((\w+)\)", expression):
        assert all(grouped in known[name] for name, _ in asked)
    for job in re.findall(r'job="([^"]*)"', expression):
        assert job in jobs()


def states(name: str, label: str) -> set[str]:
    """Values that a label can have."""
    if label == "priority":
        return set(PRIORITIES)
    if label == "status":
        return {"500", "503"}
    worker = (ROOT / "src" / "lampyris" / "centre" / "jobs" / "worker.py").read_text("utf-8")
    if name.startswith("lampyris_tries"):
        return {state for state in ("done", "lost", "again", "failed", "refused") if f'"{state}"' in worker}
    return {"open", "queued", "running"}


def test_counters_are_counted_and_gauges_are_looked_at():
    for rule in rules():
        for name, _ in SELECTOR.findall(rule["expr"]):
            counted = bool(re.search(rf"\b(?:rate|increase)\({name}", rule["expr"]))
            assert counted == name.endswith("_total"), rule["alert"]


def test_every_alarm_says_what_to_do():
    """It has a row on the operator's page."""
    rows = PAGE.read_text("utf-8").partition("## What to do when")[2]
    for rule in rules():
        assert f"`{rule['alert']}`" in rows
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_every_metric_is_on_the_page_and_no_other():
    page = PAGE.read_text("utf-8").partition("## Monitor")[2].partition("## What to do when")[0]
    rows = dict(re.findall(r"^\| `(lampyris_\w+)` \|.*\|([^|]*)\|$", page, re.MULTILINE))
    known = {re.sub("_(bucket|sum|count)$", "", name): labels for name, labels in told().items()}
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows.items()} == known


def test_the_queue_is_called_full_before_sites_are_asked_to_wait():
    (rule,) = [rule for rule in rules() if rule["alert"] == "QueueIsFull"]
    most = Settings.__dataclass_fields__["waiting_scans"].default
    assert int(rule["expr"].rpartition("> ")[2]) < most
    assert str(most) in rule["annotations"]["summary"]


def test_metrics_are_asked_for_where_they_are_told():
    """On the same machine: with TLS at the interface's port, without at the ports that workers are named after."""
    (api,) = jobs()["lampyris-api"]["static_configs"][0]["targets"]
    port = re.search(r"--port (\d+)", Unit(DEPLOY / "systemd" / "lampyris-api.service").command)[1]
    assert api == f"127.0.0.1:{port}"
    assert jobs()["lampyris-api"]["scheme"] == "https"
    assert "--metrics-port %i" in Unit(DEPLOY / "systemd" / "lampyris-work@.service").command
    for target in jobs()["lampyris-work"]["static_configs"][0]["targets"]:
        host, _, port = target.partition(":")
        assert host == "127.0.0.1"
        assert f"lampyris-work@{port}" in PAGE.read_text("utf-8")
