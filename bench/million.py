"""A ledger as it may look after two busy weeks: a million jobs of all types, statuses and ages, 5 % failed of 30 causes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from monolith.db.engine import get_engine
from monolith.db.models import Job
from monolith.job_types import registry
from monolith.runner.ledger import error_fingerprint

USERS, DOCUMENTS, CAUSES, BINNED = 200, 50_000, 30, 20_000
TRACE = "Traceback (most recent call last):\n" + "".join(
    f'  File "/app/.venv/lib/python3.11/site-packages/library/part_{number}.py", line {number}, in call\n    return inner()\n'
    for number in range(12)
)
ERRORS = ("ConnectionError", "TimeoutError", "ValueError", "permanent", "KeyError", "timeout")
SEARCHES = (
    "/admin/jobs?status=failed",
    "/admin/jobs?status=stopped",
    "/admin/jobs?status=finished&type=report",
    "/admin/jobs?type=calendar",
    "/admin/jobs?queue=default&status=failed&within=day",
    "/admin/jobs?owner=user7@example.org",
    "/admin/jobs?owner=user7@example.org&status=failed",
    "/admin/jobs?owner=nobody@example.org",
    "/admin/jobs?error=TimeoutError",
    "/admin/jobs?error=step+1234",
    "/admin/jobs?error=no+such+words",
    "/admin/jobs?error={cause}",
    "/admin/jobs?text=marlin",
    "/admin/jobs?text=word777",
    "/admin/jobs?text=nosuchword",
    "/admin/jobs?text=3fa85f64",
    "/admin/jobs/act?act=requeue&all=1",
    "/admin/jobs/act?act=clean&all=1&status=finished",
    "/admin/jobs/act?act=requeue&all=1&status=failed&error=TimeoutError",
    "/admin/bin?status=finished&age=3&unit=days",
    "/admin/bin?status=failed&age=7&unit=days",
    "/admin/bin?status=queued&age=0&unit=hours",
)

# Ages are denser the younger; the statuses are 20 live ones, 50 failed, 10 each of stopped and cancelled, in a thousand.
JOBS = """
INSERT INTO jobs (id, owner_id, document_id, type, queue, priority, params, status, result, error_type, error_message, error_trace,
                  error_group, attempt, claims, max_attempts, interruptions, crashes, is_unique, input_tokens, output_tokens, usd, worker,
                  request_id, created_at, queued_at, run_at, started_at, heartbeat_at, ended_at, trash_id)
SELECT gen_random_uuid()::text, :owner + (n % :users), 'document-' || (n % :documents), t.names[1 + k % cardinality(t.names)],
       t.queues[1 + k % cardinality(t.names)], (ARRAY['normal', 'normal', 'normal', 'high', 'low', 'critical'])[1 + n % 6], '{}', s,
       CASE WHEN s = 'finished' THEN json_build_object('summary', repeat('Some words of a summary. ', 12)) END,
       CASE WHEN s = 'failed' THEN t.errors[c] END, CASE WHEN s = 'failed' THEN replace(t.messages[c], '{n}', n::text) END,
       CASE WHEN s = 'failed' THEN t.traces[c] END, CASE WHEN s = 'failed' THEN t.causes[c] END,
       CASE WHEN s IN ('queued', 'scheduled') THEN 0 ELSE 1 END, 1, 3, 0, 0, false, 0, 0, 0, 'worker-' || n % 4, 'request-' || n,
       born, born, CASE WHEN s = 'scheduled' THEN born + 8000000 END, CASE WHEN s NOT IN ('queued', 'scheduled') THEN born + 2 END,
       CASE WHEN s = 'started' THEN extract(epoch FROM now()) END,
       CASE WHEN s NOT IN ('queued', 'scheduled', 'started') THEN born + 2 + 20 * random() END,
       CASE WHEN s = 'finished' AND n < :binned THEN 1 END
FROM (SELECT n, n / 7 AS k, 1 + floor(:number * power(random(), 2))::int AS c,
             extract(epoch FROM now()) - 60 - 14 * 86400 * power(random(), 2) AS born,
             CASE WHEN n % 20000 = 19999 THEN 'started' WHEN n % 1000 < 15 THEN 'queued' WHEN n % 1000 < 20 THEN 'scheduled'
                  WHEN n % 1000 < 70 THEN 'failed' WHEN n % 1000 < 80 THEN 'stopped' WHEN n % 1000 < 90 THEN 'canceled'
                  ELSE 'finished' END AS s
      FROM generate_series(1, :jobs) AS n) AS made,
     (SELECT CAST(:names AS text[]) AS names, CAST(:queues AS text[]) AS queues, CAST(:errors AS text[]) AS errors,
             CAST(:messages AS text[]) AS messages, CAST(:traces AS text[]) AS traces, CAST(:causes AS text[]) AS causes) AS t
"""
BESIDES = (
    "INSERT INTO tallies (name, amount, at) SELECT 'accepted', count(*), 0 FROM jobs",
    "INSERT INTO trash (id, trashed_by, criteria, at)"
    " VALUES (1, 'bench@example.org', '{\"status\": \"finished\"}', extract(epoch FROM now()))",
    # the timelines of a tenth
    "INSERT INTO job_events (job_id, at, name, attempt) SELECT id, created_at + i, (ARRAY['submitted', 'started', 'finished'])[i], 1"
    " FROM jobs, generate_series(1, 3) AS i WHERE id < '1a'",
    # a row a minute of each type, for eight days
    "INSERT INTO samples (at, queue, type, queued, scheduled, started, finished, failed, oldest_waiting_s, mean_wait_s, mean_run_s)"
    " SELECT floor(extract(epoch FROM now()) / 60) * 60 - 60 * m, queue, type, 50, 5, 3, (20 * random())::int, (2 * random())::int,"
    " 60 * random(), 5 * random(), 10 * random() FROM generate_series(0, 8 * 1440) AS m, (SELECT DISTINCT queue, type FROM jobs) AS kinds",
    "INSERT INTO audit (at, actor, act, subject, count) SELECT extract(epoch FROM now()) - n * 60, 'bench@example.org',"
    " (ARRAY['pause', 'resume', 'clean', 'requeue_jobs'])[1 + n % 4], 'type:analyze', n % 100 FROM generate_series(1, 20000) AS n",
)


def fill(owner_id: int, jobs: int) -> None:
    """Fill an empty PostgreSQL. Indexes of the jobs are made afterwards: that is four times as quick."""
    indexes = sorted(Job.__table__.indexes, key=lambda index: str(index.name))  # type: ignore[attr-defined]
    with get_engine().begin() as connection:
        _fill_people(connection, owner_id)
        for index in indexes:
            index.drop(connection)
        connection.execute(text(JOBS), _said(owner_id, jobs))
        for index in indexes:
            index.create(connection)
        for statement in BESIDES:
            connection.execute(text(statement))
    with get_engine().execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")  # as autovacuum keeps it


def _fill_people(connection: Connection, owner_id: int) -> None:
    """Users, and documents with their words."""
    said = {"owner": owner_id, "users": USERS, "documents": DOCUMENTS}
    connection.execute(
        text(
            "INSERT INTO users (id, email, password_hash, is_admin, created_at)"
            " SELECT :owner + n, 'user' || n || '@example.org', '', false, 0 FROM generate_series(1, :users) AS n"
        ),
        said,
    )
    connection.execute(
        text(
            "INSERT INTO documents (id, owner_id, title, kind, tags, media_type, size, created_at)"
            " SELECT 'document-' || n, :owner + n % :users, 'Guide to Marlin, part ' || n, 'text', '[]', 'text/plain', 100, n"
            " FROM generate_series(0, :documents - 1) AS n"
        ),
        said,
    )
    connection.execute(
        text(
            "INSERT INTO document_texts (document_id, names, words, is_read) SELECT 'document-' || n, 'guide to marlin part ' || n,"
            " (SELECT string_agg('word' || (n * i) % 5000, ' ') FROM generate_series(1, 40) AS i), true"
            " FROM generate_series(0, :documents - 1) AS n"
        ),
        said,
    )


def _said(owner_id: int, jobs: int) -> dict[str, Any]:
    types = list(registry.discover().values())
    errors = [ERRORS[number % len(ERRORS)] for number in range(CAUSES)]
    messages = [
        f"Step {{n}} of {'abcdefghijklmnopqrstuvwxyzABCDEF'[number]} could not be done: no answer from 10.0.0.1" for number in range(CAUSES)
    ]
    traces = [
        f'{TRACE}  File "{error_fingerprint.OURS}jobs/analyze.py", line 9, in step_{number % 3}\n    go()\n' for number in range(CAUSES)
    ]
    keys = [
        error_fingerprint.fingerprint_of(*said).key
        for said in zip(errors, (one.replace("{n}", "7") for one in messages), traces, strict=True)
    ]
    lists = {"names": [one.name for one in types], "queues": [one.queue for one in types]}
    told = {"errors": errors, "messages": messages, "traces": traces, "causes": keys, "number": CAUSES}
    return {"owner": owner_id, "users": USERS, "documents": DOCUMENTS, "binned": BINNED, "jobs": jobs, **lists, **told}
