"""The OpenAPI document and the server say the same: whatever is asked of it, schemathesis finds no lie and no 5xx.

Schemathesis makes requests of the document, good ones and bad ones, and holds every answer against it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lampyris.transfer import limits

SEED = 20261121
EXAMPLES = 15
"""For each operation: what CI has time for."""


@pytest.fixture
def unhurried(monkeypatch, settings) -> None:
    """A token that outlives the run, and no limit on how many scans are opened in it."""
    monkeypatch.setattr(limits, "TOKEN_SECONDS", 3600)
    object.__setattr__(settings, "open_scans", 100_000)


# A schema says how a signature looks and not which one is good: that a body of the right shape is refused is no fault.
UNSAID = "positive_data_acceptance"


def asked(client, folder: Path, examples: int, *options: str) -> str:
    """What schemathesis says of the running centre. The stream of events has no end and is tested elsewhere."""
    hooks = folder / "hooks.py"
    hooks.write_text('import schemathesis\nschemathesis.serializer.alias("application/jose", "text/plain")\n', "utf-8")
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", str(client.base_url.join("/openapi.json"))),
        *("--seed", str(SEED), "--max-examples", str(examples), "--exclude-path", f"{limits.PREFIX}/events"),
        *("--exclude-checks", UNSAID, "--generation-database", "none", "--warnings", "off"),
        *("--no-color", "--continue-on-failure", "--phases", "fuzzing", *options),
    ]
    variables = os.environ | {"SCHEMATHESIS_HOOKS": str(hooks)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=variables, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    return done.stdout


def test_whatever_is_asked_is_answered_as_the_document_says(unhurried, site, client, tmp_path):
    asked(client, tmp_path, EXAMPLES, "--header", f"Authorization: Bearer {site.token}")


def test_without_a_token_nothing_but_the_ways_in_is_answered(client):
    """Deny by default: every request of the document, but those that are there to be let in or to look after it."""
    document = client.get("/openapi.json").json()
    free = {"/v1", "/healthz", "/readyz", "/v1/enrolments", "/v1/token"}
    asked_for = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert ("security" in operation) == (path not in free), path
            if path in free:
                continue
            url = re.sub(r"\{(\w+)[^}]*\}", lambda name: "0a" * (32 if name[1] == "digest" else 16), path)
            for header in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp5"}):
                answer = client.request(method, url, headers=header)
                assert (answer.status_code, answer.json()["code"]) == (401, "TOKEN"), (method, path)
                asked_for += 1
    assert asked_for > 30
