"""PgBouncer between Intray and PostgreSQL, in session mode and in transaction mode; and a schema that DATABASE_URL names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import requests

from tests.support.databases import new_database
from tests.support.hosts.pgbouncer import pgbouncer
from tests.support.processes import Intray, NewIntray, until

POOL_SIZES = {"session": 20, "transaction": 4}  # in session mode each connection of Intray has one of the server for itself
JOBS = 200
TEXT = "Intray accepts documents and answers at once. Workers read each document and analyse it. Nothing accepted is lost. " * 20
SCHEMA = "?options=-csearch_path%3Dintray%20-cstatement_timeout%3D1min"


@contextmanager
def reached(server: str, way: str) -> Iterator[str]:
    """The URL of a database that is reached in this way."""
    if way == "direct":
        yield server
        return
    with pgbouncer(server, way, POOL_SIZES[way]) as url:
        yield url


def client(intray: Intray) -> requests.Session:
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {intray.token()}"
    return session


def run_main_job(intray: Intray, http: requests.Session) -> None:
    """Submit a document and wait for its result."""
    answer = http.post(f"{intray.base_url}/api/v1/documents", json={"text": TEXT, "jobs": [{"type": "analyze"}]}, timeout=30)
    assert answer.status_code == 201, answer.text
    link = answer.json()["jobs"][0]["links"]["self"]
    job: dict[str, Any] = {}

    def is_over() -> bool:
        job.update(http.get(f"{intray.base_url}{link}", params={"wait": 5}, timeout=30).json())
        return job["ended_at"] is not None

    until(is_over, 60, intray.output)
    assert (job["status"], job["attempt"]) == ("finished", 1), job
    assert "Intray" in job["result"]["summary"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_the_main_job_and_200_jobs_run_once_each_behind_pgbouncer(
    new_intray: NewIntray, postgresql_server: str, redis_server: str, mode: str
) -> None:
    database = new_database(postgresql_server)
    with pgbouncer(database, mode, POOL_SIZES[mode]) as url:
        settings = {"REDIS_URL": redis_server, "SECRET_KEY": "k" * 40, "JOB_PACKAGES": "jobs,tests.trial_jobs", "WORKER_CONCURRENCY": "3"}
        with new_intray(DATABASE_URL=url, **settings).start() as intray:
            http = client(intray)
            run_main_job(intray, http)

            def submit(number: int) -> requests.Response:
                body = {"type": "trial_echo", "params": {"value": number}}
                return requests.post(f"{intray.base_url}/api/v1/jobs", json=body, headers=dict(http.headers), timeout=60)

            with ThreadPoolExecutor(8) as callers:
                answers = list(callers.map(submit, range(JOBS)))
            assert Counter(answer.status_code for answer in answers) == {202: JOBS}, errors(intray)
            with psycopg.connect(database, autocommit=True) as ledger:
                until(lambda: ended(ledger) == {("finished", 1, 1): JOBS}, 120, intray.output)
            assert re.search(rf"^ok +database .*pooler in {mode} mode", intray.checked("doctor"), re.MULTILINE)
            assert http.get(f"{intray.base_url}/api/v1/me", timeout=30).status_code == 200
            assert errors(intray) == []


def errors(intray: Intray) -> list[str]:
    """The lines of its log that tell of an error."""
    return [line for line in intray.output().splitlines() if re.search('Traceback|"exception"|"database_away"', line)]


def ended(ledger: psycopg.Connection[Any]) -> dict[tuple[str, int, int], int]:
    """The number of trial jobs by status, attempt and how often they were claimed."""
    rows = ledger.execute("SELECT status, attempt, claims, count(*) FROM jobs WHERE type = 'trial_echo' GROUP BY 1, 2, 3")
    return {(status, attempt, claims): count for status, attempt, claims, count in rows}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["direct", "transaction"])
def test_everything_runs_in_the_schema_that_the_url_names(
    new_intray: NewIntray, postgresql_server: str, redis_server: str, way: str
) -> None:
    database = new_database(postgresql_server)
    with psycopg.connect(database, autocommit=True) as server, reached(database, way) as url:
        intray = new_intray(DATABASE_URL=url + SCHEMA, REDIS_URL=redis_server, SECRET_KEY="k" * 40)
        refused = intray.manage("db", "upgrade")
        assert refused.returncode == 1 and "CREATE SCHEMA" in refused.stderr, refused.stderr
        server.execute("CREATE SCHEMA intray")
        with intray.start():
            run_main_job(intray, client(intray))
            intray.checked("doctor")
            assert errors(intray) == []
        tables = server.execute("SELECT schemaname, count(*) FROM pg_tables WHERE tablename IN ('jobs', 'alembic_version') GROUP BY 1")
        assert tables.fetchall() == [("intray", 2)]
