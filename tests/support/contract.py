"""The API held against its own document: schemathesis asks a running web process everything it can think of.

`.venv/bin/python -m tests.support.contract --minutes 10`; what it found is printed, exit code 1 when there is anything.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import requests

from tests.support.processes import ROOT, Intray

EMAIL = "contract@example.org"
SETTINGS = {"MAX_QUEUED": "0", "MAX_QUEUED_PER_USER": "0", "LOG_LEVEL": "ERROR", "FETCH_ALLOW_LOOPBACK": "true"}
STREAMS = "/events$"  # they have no end to wait for
UNFIT = "allow_header_conformance"  # /documents/delete is also a /documents/{id}: OPTIONS names the methods of both
SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))


def start(one: Intray) -> None:
    """Start the web process alone: what is submitted stays as it is."""
    one.settings.update(SETTINGS)
    one.checked("db", "upgrade")
    one.checked("user", "create", "--email", EMAIL, "--password", "seven grey herons", "--admin")
    one.spawn("web")
    one.wait_until(lambda: _answers(one))


def _answers(one: Intray) -> bool:
    try:
        return requests.get(f"{one.base_url}/health", timeout=2).ok
    except requests.RequestException:
        return False


def ask(one: Intray, *more: str) -> subprocess.CompletedProcess[str]:
    """Run it, with all checks; `more` are its own options."""
    token = one.token(EMAIL)
    headers = {"Authorization": f"Bearer {token}"}
    known = requests.get(f"{one.base_url}/api/v1/tokens", headers=headers, timeout=10).json()["data"]
    config = ["--config-file", str(ROOT / "tests" / "support" / "contract.toml")]
    asked = ["run", f"{one.base_url}/api/openapi.json", "-H", f"Authorization: Bearer {token}"]
    asked += ["--checks", "all", "--exclude-checks", UNFIT, "--exclude-path-regex", STREAMS, "--continue-on-failure", *more]
    ids = {"token_id": known[0]["id"], **_made(one, headers)}
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.contract_hooks", "CONTRACT_IDS": json.dumps(ids), "PYTHONPATH": str(ROOT)}
    # In its home, for schemathesis keeps what it found in .schemathesis/ of the folder in which it runs.
    return subprocess.run([SCHEMATHESIS, *config, *asked], check=False, capture_output=True, text=True, env=env, cwd=one.home)


def _made(one: Intray, headers: dict[str, str]) -> dict[str, str]:
    """Something of each kind, for paths to lead to."""

    def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = requests.post(f"{one.base_url}/api/v1/{path}", json=body, headers=headers, timeout=20)
        assert answer.ok, answer.text
        found: dict[str, Any] = answer.json()
        return found

    made = post("documents", {"text": "A document.", "jobs": ["analyze"]})
    batch = post("batches", {"documents": [{"text": "One."}], "jobs": ["analyze"]})
    webhook = post("webhooks", {"url": "http://127.0.0.1:9/"})
    delivery = post(f"webhooks/{webhook['id']}/test", {})
    ids = {"document_id": made["document"]["id"], "job_id": made["jobs"][0]["id"], "batch_id": batch["id"]}
    return {**ids, "webhook_id": webhook["id"], "delivery_id": delivery["id"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="contract-") as folder:
        with Intray(Path(folder) / "home") as one:
            start(one)
            done = ask(one, "--max-time", str(int(minutes * 60)))
        sys.stdout.write("\n".join((done.stdout, done.stderr, one.output())))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
