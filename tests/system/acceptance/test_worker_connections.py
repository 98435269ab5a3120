"""How many connections to PostgreSQL a worker holds."""

from __future__ import annotations

from pathlib import Path

import psycopg
import requests

from tests.support.databases import new_database
from tests.support.processes import NewIntray, until

JOBS = 200


def test_a_worker_whose_jobs_ask_for_none_holds_two_connections_at_most(
    new_intray: NewIntray, postgresql_server: str, redis_server: str, tmp_path: Path
) -> None:
    database = new_database(postgresql_server)
    (tmp_path / "records").touch()
    settings = {"REDIS_URL": redis_server, "JOB_PACKAGES": "jobs,bench.job_types", "INTRAY_BENCH_RECORDS": str(tmp_path / "records")}
    intray = new_intray(DATABASE_URL=database, **settings).start_web()
    token = intray.token(intray.user("a@example.org"))
    intray.settings["DATABASE_URL"] = f"{database}?application_name=the-worker"
    intray.spawn("worker")
    with psycopg.connect(database, autocommit=True) as ledger, requests.Session() as client:
        client.headers["Authorization"] = f"Bearer {token}"
        seen = {0}
        for _ in range(JOBS):
            body = {"type": "bench_noop", "params": {"at": 0}}
            answer = client.post(f"{intray.base_url}/api/v1/jobs", json=body, timeout=30)
            assert answer.status_code == 202, answer.text
            seen.add(_count(ledger, "pg_stat_activity WHERE application_name = 'the-worker'"))

        def is_over() -> bool:
            seen.add(_count(ledger, "pg_stat_activity WHERE application_name = 'the-worker'"))
            return _count(ledger, "jobs WHERE status = 'finished'") == JOBS

        until(is_over, 60, intray.output)
    assert 1 <= max(seen) <= 2


def _count(ledger: psycopg.Connection[tuple[int]], what: str) -> int:
    found = ledger.execute(f"SELECT count(*) FROM {what}").fetchone()
    assert found
    return found[0]
