"""The Procfile as a host such as Heroku runs it: PostgreSQL, a small Redis with TLS, dynos that are told to end and lose their disks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from redis import Redis

from tests.support.databases import new_database
from tests.support.hosts.dynos import KILLED_AFTER_S, Formation
from tests.support.hosts.servers import TlsRedis, tls_redis
from tests.support.processes import ROOT, until

CONNECTIONS = 20  # what the smallest plans give
DYNO_MB = 512
TEXT = "Intray takes documents. It is simple, fast and free; but it has limits, and it is slow with large archives. " * 80
MIX = [{"type": "trial_follow"}, {"type": "analyze", "params": {"description": TEXT}}, {"type": "trial_echo", "params": {"value": "x"}}]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[TlsRedis]:
    with tls_redis(tmp_path, CONNECTIONS) as server:
        yield server


@pytest.fixture
def formation(tmp_path: Path, redis: TlsRedis, postgresql_server: str) -> Iterator[Formation]:
    """Nothing runs yet. WEB_CONCURRENCY is what Heroku's buildpack sets on a small dyno."""
    settings = {
        "DATABASE_URL": new_database(postgresql_server).replace("postgresql://", "postgres://"),
        "REDIS_URL": redis.url,
        "SECRET_KEY": "k" * 40,
        "WEB_CONCURRENCY": "2",
        "JOB_PACKAGES": "jobs,tests.trial_jobs",
    }
    one = Formation(tmp_path, settings)
    yield one
    one.end()


@pytest.mark.timeout(400)
def test_it_is_released_works_within_small_plans_and_loses_nothing_when_its_dynos_are_replaced(
    formation: Formation, redis: TlsRedis
) -> None:
    released = formation.release()
    assert released.returncode == 0, released.stdout + released.stderr
    assert "PROBLEM" not in released.stdout
    assert formation.command("python manage.py user create --email a@example.org --password 'a long password'").returncode == 0
    token = formation.command("python manage.py token create --email a@example.org").stdout.split()[-1]
    formation.scale(web=2, worker=2, clock=1)
    formation.wait_until_ready()
    _each_web_dyno_has_two_processes(formation)

    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-Proto": "https"}
    with ThreadPoolExecutor(8) as callers, redis.client() as onlooker:
        load = [callers.submit(_submit, formation, headers, number, MIX[number % len(MIX)]) for number in range(150)]
        most = _most_connections(onlooker, formation, lambda: all(one.done() for one in load))
        accepted = [one.result() for one in load]
    assert most <= CONNECTIONS
    assert {dyno.name: dyno.pss_mb() for dyno in formation.dynos if dyno.pss_mb() > DYNO_MB} == {}
    _stock_rq_reads_the_same_queues(redis)
    _so_does_its_dashboard(formation)

    lasting = [_submit(formation, headers, 0, {"type": "trial_sleep", "params": {"seconds": 22}}) for _ in range(4)]
    until(lambda: set(_how_jobs_are(formation).get(("started", 1), [])) == set(lasting), 120, formation.said)
    took = formation.restart()
    assert took < KILLED_AFTER_S
    with ThreadPoolExecutor(1) as router:
        waited = router.submit(_a_router_never_waits_for_the_first_byte, formation, headers)
        until(lambda: set(_how_jobs_are(formation)) == {("finished", 1), ("scheduled", 0)}, 180, formation.said)
        waited.result()
    assert set(accepted) | set(lasting) <= set(_how_jobs_are(formation)["finished", 1])
    said = formation.command("python manage.py doctor && python manage.py ledger")
    assert said.returncode == 0, said.stdout + said.stderr


def _each_web_dyno_has_two_processes(formation: Formation) -> None:
    for web in formation.named("web"):
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in web.pids()]
        assert len([line for line in lines if line[0].endswith(b"python")]) == 3, lines  # gunicorn's own, and two that answer


def _submit(formation: Formation, headers: dict[str, str], number: int, body: dict[str, Any]) -> str:
    web = formation.named("web")[number % 2]
    answer = requests.post(f"{web.url}/api/v1/jobs", json=body, headers=headers, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _how_jobs_are(formation: Formation) -> dict[tuple[str, int], list[str]]:
    """The jobs by their status and attempt."""
    found: dict[tuple[str, int], list[str]] = {}
    with psycopg.connect(formation.settings["DATABASE_URL"]) as ledger:
        for job_id, status, attempt in ledger.execute("SELECT id, status, attempt FROM jobs"):
            found.setdefault((status, attempt), []).append(job_id)
    return found


def _most_connections(onlooker: Redis, formation: Formation, is_over: Any) -> int:
    """The most that Redis had at once, but for the one that asks."""
    most = 0

    def look() -> bool:
        nonlocal most
        most = max(most, len(onlooker.client_list()) - 1)
        return bool(is_over())

    until(look, 120, formation.said)
    return most


def _stock_rq_reads_the_same_queues(redis: TlsRedis) -> None:
    """The command of RQ, told in the URL as we are by REDIS_TLS_VERIFY."""
    rq = str(Path(sys.executable).with_name("rq"))
    done = subprocess.run([rq, "info", "--url", f"{redis.url}?ssl_cert_reqs=none"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "default.normal" in done.stdout and "2 workers" in done.stdout, done.stdout


def _so_does_its_dashboard(formation: Formation) -> None:
    assert formation.command("python manage.py user create --email b@example.org --password 'a long password' --admin").returncode == 0
    token = formation.command("python manage.py token create --email b@example.org").stdout.split()[-1]
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-Proto": "https"}
    answer = requests.get(f"{formation.named('web')[0].url}/admin/rq/0/data/workers.json", headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["workers"]) == 2


def _a_router_never_waits_for_the_first_byte(formation: Formation, headers: dict[str, str]) -> None:
    """It would answer 503 after 30 s. We are asked to wait for a minute, and say sooner that it is not over."""
    job_id = _submit(formation, headers, 0, {"type": "trial_echo", "delay": 3600})
    answer = requests.get(f"{formation.named('web')[0].url}/api/v1/jobs/{job_id}?wait=60", headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["status"]) == (200, "scheduled")
