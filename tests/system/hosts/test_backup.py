"""The lines of docs/operations.md that back up and restore, run on a living installation that is then killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
from redis import Redis

from tests.support.databases import new_database
from tests.support.processes import ROOT, Intray, NewIntray, until

LASTING_S = 20


def documented(section: str, act: str) -> str:
    """The line of shell below `# back up` or `# restore` in a section's code."""
    page = (ROOT / "docs" / "operations.md").read_text()
    code = page.partition(f"\n{section}")[2].partition("```sh\n")[2].partition("```")[0]
    found = re.search(rf"^# {act}[^\n]*\n([^\n]+)", code, re.MULTILINE)
    assert found, code
    return found[1]


def shell(line: str, intray: Intray, backup: Path) -> None:
    done = subprocess.run(["bash", "-euc", line], cwd=ROOT, env={**intray.env, "BACKUP": str(backup)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(400)
@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_all_jobs_of_a_backup_end_as_they_should_in_a_new_installation_with_an_empty_redis(
    new_intray: NewIntray, redis_server: str, request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    settings = {"REDIS_URL": redis_server, "SECRET_KEY": "k" * 40, "JOB_PACKAGES": "jobs,tests.trial_jobs", "WORKER_CONCURRENCY": "2"}
    if database == "PostgreSQL":
        if shutil.which("pg_dump") is None:
            pytest.skip("pg_dump is not installed")
        server = request.getfixturevalue("postgresql_server")
        first, second = (new_intray(**settings, DATABASE_URL=new_database(server)) for _ in range(2))
    else:
        first, second = (new_intray(**settings) for _ in range(2))
    first.checked("db", "upgrade")
    headers = {"Authorization": f"Bearer {first.token(first.user('a@example.org'))}"}
    _start(first)

    done = [_submit(first, headers, "trial_echo", params={"value": "kept"}), _submit(first, headers, "trial_permanent")]
    until(lambda: all(_job(first, headers, one)["ended_at"] for one in done), 90, first.output)
    running = [_submit(first, headers, "trial_sleep", params={"seconds": LASTING_S}) for _ in range(2)]
    until(lambda: all(_job(first, headers, one)["status"] == "started" for one in running), 90, first.output)
    waiting = [
        _submit(first, headers, "trial_echo"),
        _submit(first, headers, "trial_follow"),
        _submit(first, headers, "trial_echo", delay=5),
    ]
    before = {one: _job(first, headers, one) for one in done}

    shell(documented(f"{database}", "back up"), first, tmp_path / "backup")
    _kill(first)
    with Redis.from_url(redis_server) as redis:
        redis.flushall()
    shell(documented(f"{database}", "restore"), second, tmp_path / "backup")
    second.checked("db", "upgrade")
    _start(second)

    assert {one: _job(second, headers, one) for one in done} == before
    file = _job(second, headers, done[0])["artifacts"][0]["url"]
    assert requests.get(file if "://" in file else second.base_url + file, headers=headers, timeout=20).text == "kept"
    jobs = [*running, *waiting]
    until(lambda: all(_job(second, headers, one)["status"] == "finished" for one in jobs), 180, second.output)
    assert [(_job(second, headers, one)["attempt"], _job(second, headers, one)["interruptions"]) for one in running] == [(1, 1)] * 2
    second.checked("ledger")


def _start(intray: Intray) -> None:
    for name in ("web", "clock", "worker"):
        intray.spawn(name)
    intray.wait_until(intray.is_ready)


def _kill(intray: Intray) -> None:
    for pid in intray.processes():
        os.kill(pid, signal.SIGKILL)
    for process in intray.spawned:
        process.wait(20)


def _submit(intray: Intray, headers: dict[str, str], name: str, **more: Any) -> str:
    answer = requests.post(f"{intray.base_url}/api/v1/jobs", json={"type": name, **more}, headers=headers, timeout=20)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _job(intray: Intray, headers: dict[str, str], job_id: str) -> dict[str, Any]:
    answer = requests.get(f"{intray.base_url}/api/v1/jobs/{job_id}", headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
