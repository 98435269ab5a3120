"""An installation that builds, tests and lints, and how the tests hand projects in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.processes import Intray, until

SECRET = "hunter2-is-no-password"  # stands in the worker's environment
NEEDED_S = 90


class Workshop:
    """What a submitter does, and what the tests look at on the machine."""

    def __init__(self, intray: Intray) -> None:
        self.intray = intray
        self.headers = {"Authorization": f"Bearer {intray.token(intray.user('u@example.org'))}"}

    def submit(self, type: str, archive: bytes, name: str = "project.zip") -> dict[str, Any]:
        """Hand in an archive with one job; the job."""
        url = f"{self.intray.base_url}/api/v1/documents"
        answer = requests.post(url, files={"file": (name, archive)}, data={"jobs": type}, headers=self.headers, timeout=20)
        assert answer.status_code == 201, answer.text
        assert answer.json()["document"]["kind"] == "project"
        job: dict[str, Any] = answer.json()["jobs"][0]
        return job

    def submit_files(self, type: str, files: dict[str, str]) -> dict[str, Any]:
        """Hand the files in as JSON; the job."""
        answer = self.post("/api/v1/jobs", json={"type": type, "params": {"files": files}})
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def over(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job when it is over."""
        until(lambda: self.read(job)["ended_at"] is not None, NEEDED_S, lambda: f"{self.read(job)}\n{self.intray.output()[-3000:]}")
        return self.read(job)

    def run(self, type: str, files: dict[str, str]) -> dict[str, Any]:
        """The result of a job that must finish."""
        job = self.over(self.submit_files(type, files))
        assert job["status"] == "finished", job["error"]
        result: dict[str, Any] = job["result"]
        return result

    def read(self, job: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"{job['links']['self']}?wait=20").json()
        return found

    def file(self, job: dict[str, Any], name: str) -> bytes:
        """A file that the job has made."""
        return self.get(next(one["url"] for one in job["artifacts"] if one["name"] == name)).content

    def page(self, job: dict[str, Any]) -> str:
        """The page of the job, as people see it."""
        answer = self.get(f"/jobs/{job['id']}")
        assert answer.status_code == 200
        return answer.text

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.intray.base_url}{path}", headers=self.headers, timeout=30)

    def post(self, path: str, **options: Any) -> requests.Response:
        return requests.post(f"{self.intray.base_url}{path}", headers=self.headers, timeout=30, **options)


def is_running(mark: str) -> bool:
    """Whether any process of this machine has the mark in its command line."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "cmdline").read_bytes().decode(errors="replace"):
                return True
        except OSError:
            continue
    return False


def commands(act: str, *steps: str, **more: str) -> str:
    """An `intray.toml` that says how; JSON's texts and lists are TOML's as well."""
    return "\n".join([f"[{act}]", f"commands = {json.dumps(steps)}", *(f"{name} = {json.dumps(value)}" for name, value in more.items())])


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """Small limits, so that reaching them takes little."""
    limits = {"SANDBOX_MEMORY_MB": "384", "SANDBOX_DISK_MB": "96", "SANDBOX_SECONDS": "80"}
    with Intray(tmp_path_factory.mktemp("intray") / "home", {**limits, "MAIL_FROM": SECRET, "WORKER_CONCURRENCY": "2"}) as one:
        yield Workshop(one.start())
