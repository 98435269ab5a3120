"""A new version is started while jobs of an earlier one wait, sleep and run: each ends as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.databases import new_database
from tests.support.processes import ROOT, Intray, NewIntray, until

# By their commits.
EARLIER = {"of the first days": "013dd51", "before this one": "822b4d8"}
DATABASES = {"of the first days": "sqlite", "before this one": "postgresql"}
LASTING_S = 8


def checked_out(commit: str, folder: Path) -> Path:
    """The code of an earlier version, as this repository's history has it."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def its_libraries(code: Path, folder: Path) -> Path:
    """The libraries that an earlier version pins, which need not be ours."""
    install = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--target", str(folder)]
    options = ["--no-compile", "--require-hashes", "--only-binary", ":all:", "-r", str(code / "requirements.txt")]
    subprocess.run([*install, *options], check=True)
    return folder


@pytest.fixture
def upgraded(new_intray: NewIntray, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], tuple[Intray, Intray]]:
    """An installation twice: with the code and the libraries of an earlier version, and with ours."""

    def make(version: str) -> tuple[Intray, Intray]:
        settings = {"SECRET_KEY": "k" * 40, "JOB_PACKAGES": "jobs,tests.trial_jobs", "REDIS_URL": request.getfixturevalue("redis_url")}
        if DATABASES[version] == "postgresql":
            settings["DATABASE_URL"] = new_database(request.getfixturevalue("postgresql_server"))
        home = tmp_path / "home"
        code = checked_out(EARLIER[version], tmp_path / "code")
        old = new_intray(home, **settings, PYTHONPATH=str(its_libraries(code, tmp_path / "libraries")))
        old.code = code
        return old, new_intray(home, **settings)

    return make


@pytest.mark.timeout(400)
@pytest.mark.parametrize("version", EARLIER)
def test_jobs_that_an_earlier_version_accepted_are_done_by_this_one(upgraded: Callable[[str], tuple[Intray, Intray]], version: str) -> None:
    old, new = upgraded(version)
    old.checked("db", "upgrade")
    headers = {"Authorization": f"Bearer {old.token(old.user('a@example.org'))}"}
    for name in ("web", "clock", "worker"):
        old.spawn(name)
    old.wait_until(old.is_ready)
    web, clock, worker = old.spawned[-3:]

    lasting = [_submit(old, headers, "trial_sleep", params={"seconds": LASTING_S}) for _ in range(2)]
    until(lambda: _statuses(old, headers, lasting) == ["started"] * 2, 90, old.output)
    worker.send_signal(signal.SIGTERM)  # it ends what it runs, and takes no more
    waiting = [_submit(old, headers, name) for name in ("trial_echo", "trial_follow", "trial_second_time")]
    waiting += [_submit(old, headers, "analyze", params={"text": "It is fast, but it has limits."})]
    delayed = _submit(old, headers, "trial_echo", delay=5)
    for process in (web, clock):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

    new.checked("db", "upgrade")  # while the old worker still runs its jobs
    for name in ("web", "clock", "worker"):
        new.spawn(name)
    new.wait_until(new.is_ready)
    accepted = [*lasting, *waiting, delayed]
    until(lambda: set(_statuses(new, headers, accepted)) == {"finished"}, 120, new.output)
    assert worker.wait(30) == 0
    jobs = {job_id: _job(new, headers, job_id) for job_id in accepted}
    assert [jobs[one]["attempt"] for one in lasting] == [1, 1]
    assert [jobs[one]["interruptions"] for one in lasting] == [0, 0]  # the old worker put them down in the new tables
    assert jobs[waiting[2]]["attempt"] == 2 and jobs[waiting[3]]["result"]["engine"] == "local"
    new.checked("ledger")


def _submit(intray: Intray, headers: dict[str, str], name: str, **more: Any) -> str:
    answer = requests.post(f"{intray.base_url}/api/v1/jobs", json={"type": name, **more}, headers=headers, timeout=20)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _job(intray: Intray, headers: dict[str, str], job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{intray.base_url}/api/v1/jobs/{job_id}", headers=headers, timeout=20).json()
    return found


def _statuses(intray: Intray, headers: dict[str, str], ids: list[str]) -> list[str]:
    return [_job(intray, headers, one)["status"] for one in ids]
