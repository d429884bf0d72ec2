"""Image, compose file and Kubernetes manifests: every process, probe, port and query is one that there is."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from deployed import DEPLOY, ROOT, compose, objects

from lampyris.centre import Settings
from lampyris.centre.api import create
from lampyris.centre.api.__main__ import _STOP_S
from lampyris.transfer import PRIORITIES, limits

USER = 10001


@pytest.fixture(scope="module")
def routes() -> set[str]:
    app = create(Settings(Path("nowhere")))
    return {*app.openapi()["paths"], app.openapi_url}


def containers(deployment: dict) -> list[dict]:
    return deployment["spec"]["template"]["spec"]["containers"]


def queues(arguments: list[str]) -> tuple[str, ...]:
    (given,) = [one.removeprefix("--queues=") for one in arguments if one.startswith("--queues=")]
    return tuple(given.split(","))


def test_every_queue_has_a_worker_in_both():
    services = [
        service["command"] for service in compose()["services"].values() if "work" in service.get("command", [])
    ]
    pods = [each["args"] for one in objects("Deployment") for each in containers(one) if each["args"][0] == "work"]
    for workers in (services, pods):
        served = [queues(arguments) for arguments in workers]
        assert {name for names in served for name in names} == set(PRIORITIES)
        assert ("stat",) in served, "STAT would wait for routine scans"


def test_processes_have_time_to_end_what_they_have_in_hand():
    minutes = {"1m": 60, "1h": 3600}
    for name, service in compose()["services"].items():
        if service["image"].startswith("lampyris"):
            assert minutes[service["stop_grace_period"]] >= (3600 if "work" in name else _STOP_S + 1)
    for one in objects("Deployment"):
        wait = one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert wait >= (3600 if containers(one)[0]["args"][0] == "work" else _STOP_S + 5)


def test_a_service_of_the_centre_may_do_little():
    for service in compose()["services"].values():
        if service["image"].startswith("lampyris"):
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]
            assert "no-new-privileges:true" in service["security_opt"]
    for one in objects("Deployment"):
        spec = one["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == USER
        assert spec["automountServiceAccountToken"] is False
        for container in containers(one):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_what_is_written_is_mounted():
    """The image's root may not be written: data, compiled code and temporary files have places of their own."""
    written = {"/var/lib/lampyris", "/var/cache/lampyris", "/tmp"}
    image = (DEPLOY / "Dockerfile").read_text("utf-8")
    assert "XDG_CACHE_HOME=/var/cache/lampyris" in image
    for one in objects("Deployment"):
        names = {volume["name"] for volume in one["spec"]["template"]["spec"]["volumes"]}
        for container in containers(one):
            assert {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")} == written
            assert {mount["name"] for mount in container["volumeMounts"]} == names
    for service in compose()["services"].values():
        if service["image"].startswith("lampyris"):
            assert {volume.split(":")[1] for volume in service["volumes"]} | set(service["tmpfs"]) == written


def test_probes_ask_what_the_interface_answers(routes):
    (api,) = [one for one in objects("Deployment") if one["metadata"]["name"] == "api"]
    (container,) = containers(api)
    port = next(one.removeprefix("--port=") for one in container["args"] if one.startswith("--port="))
    assert container["ports"] == [{"name": "http", "containerPort": int(port)}]
    asked = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: each["path"] for name, each in asked.items()} == {
        "startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz",
    }  # fmt: skip
    assert {each["path"] for each in asked.values()} <= routes
    assert {each["port"] for each in asked.values()} == {"http"}
    probe = compose()["services"]["api"]["healthcheck"]["test"][-1]
    assert re.search(r"https://127\.0\.0\.1:8470(/\w+)", probe)[1] in routes
    compile(probe, "healthcheck", "exec")
    assert compose()["services"]["api"]["ports"] == ["8470:8470"]


def test_the_ingress_lets_the_longest_bodies_through():
    (settings,) = objects("ConfigMap")
    longest = {"/": limits.CHUNK_BYTES, "/dicomweb": Settings(Path("nowhere")).upload_bytes}
    for ingress in objects("Ingress"):
        notes = {name.rpartition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
        (rule,) = ingress["spec"]["rules"]
        (path,) = (one["path"] for one in rule["http"]["paths"])
        assert int(notes["proxy-body-size"].removesuffix("m")) << 20 >= longest.pop(path)
        assert int(notes["proxy-read-timeout"]) > 30
        assert settings["data"]["PUBLIC_URL"] == f"https://{rule['host']}"
    assert not longest
    assert "--behind-proxy" in containers(next(one for one in objects("Deployment")))[0]["args"]


def test_objects_find_one_another():
    deployments = {one["metadata"]["name"]: one for one in objects("Deployment")}
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in deployments.values()]
    for one in deployments.values():
        assert one["spec"]["selector"]["matchLabels"] == one["spec"]["template"]["metadata"]["labels"]
    for kind, path in (
        ("PodDisruptionBudget", ("selector", "matchLabels")),
        ("NetworkPolicy", ("podSelector", "matchLabels")),
    ):
        for one in objects(kind):
            wanted = one["spec"][path[0]][path[1]]
            assert any(wanted.items() <= each.items() for each in labels)
    for service in objects("Service"):
        assert any(service["spec"]["selector"].items() <= each.items() for each in labels)
    secrets = {source["secretRef"]["name"] for one in deployments.values() for each in containers(one)
               for source in each["envFrom"] if "secretRef" in source}  # fmt: skip
    (trigger,) = objects("TriggerAuthentication")
    assert {each["name"] for each in trigger["spec"]["secretTargetRef"]} == {"centre"}
    assert secrets == {"centre", "audit"}


def test_workers_are_scaled_and_stat_never_to_nothing():
    scaled = {one["spec"]["scaleTargetRef"]["name"]: one["spec"] for one in objects("ScaledObject")}
    workers = {one["metadata"]["name"] for one in objects("Deployment")} - {"api", "node"}
    assert set(scaled) == workers
    assert scaled["work-stat"]["minReplicaCount"] >= 1
    for name, spec in scaled.items():
        (trigger,) = spec["triggers"]
        assert f"priority = '{name.removeprefix('work-')}'" in trigger["metadata"]["query"]
        assert spec["minReplicaCount"] < spec["maxReplicaCount"]


def test_scaling_counts_what_waits_and_what_is_in_hand(database):
    with database() as connection:
        connection.execute("INSERT INTO site (id) VALUES ('a')")
        states = [("queued", "stat"), ("running", "stat"), ("open", "stat"), ("done", "stat"), ("queued", "batch")]
        for number, (state, priority) in enumerate(states):
            connection.execute(
                "INSERT INTO scan (site, id, state, priority, skeleton, signed, finished) VALUES"
                " ('a', %s, %s, %s, '{}', 'x', CASE WHEN %s = 'done' THEN now() END)",
                (str(number), state, priority, state),
            )
        found = {
            one["metadata"]["name"]: connection.execute(one["spec"]["triggers"][0]["metadata"]["query"]).fetchall()
            for one in objects("ScaledObject")
        }
    assert found == {"work-stat": [(2,)], "work-routine": [(0,)], "work-batch": [(1,)]}


def test_the_image_has_what_building_needs_and_nothing_else(tmp_path):
    """What the Dockerfile copies is let through by the list of what is ignored, and makes a wheel with its SQL."""
    image = (DEPLOY / "Dockerfile").read_text("utf-8")
    assert f"USER {USER}:{USER}" in image
    assert 'ENTRYPOINT ["tini", "--", "lampyris"]' in image
    copied = [word for line in re.findall(r"^COPY (?!--)(.*) \S+$", image, re.MULTILINE) for word in line.split()]
    let = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").split()
    assert let[0] == "*"
    assert {word.removeprefix("!") for word in let if word.startswith("!")} == set(copied)
    for name in copied:
        assert (ROOT / name).exists()


@pytest.mark.slow
def test_the_image_can_be_built_from_what_it_copies(tmp_path):
    """Needs the build backend, and so a package index."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    wheel = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path / "made"),
        str(tmp_path),
    ]
    subprocess.run(wheel, check=True)
    (made,) = (tmp_path / "made").glob("*.whl")
    assert "lampyris/centre/migrations/0001_first.sql" in zipfile.ZipFile(made).namelist()


@pytest.mark.judge
def test_kubectl_puts_the_manifests_together(program):
    done = subprocess.run(
        [program("kubectl"), "kustomize", str(DEPLOY / "kubernetes")], capture_output=True, text=True, check=True
    )
    made = list(yaml.safe_load_all(done.stdout))
    assert {one["metadata"].get("namespace", "lampyris") for one in made} == {"lampyris"}
    images = {each["image"] for one in made if one["kind"] == "Deployment" for each in containers(one)}
    assert images == {"registry.example/lampyris:0.1.0"}
