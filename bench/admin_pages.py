"""How long the admin pages and `/metrics` take beside a million jobs: `manage.py bench admin`. Results are in docs/performance.md.

It asks the application in this process by Flask's test client: the time is ours and the database's; a server and a network come on top.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from bench import million
from bench.plans import plan, slow_queries
from monolith import create_app
from monolith.accounts import users
from monolith.db import engine
from monolith.db.engine import get_engine, read_session
from monolith.db.models import Job, User
from monolith.errors import BadSetting
from monolith.runner.ledger.audit import Actor

ROUNDS = 15
SLOW_S = 0.05  # statements that take longer are shown with their plan
EMAIL = "bench@example.org"
PAGE_MS, METRICS_MS = 300, 500  # the goals

Say = Callable[[str], object]


def measure(jobs: int, say: Say) -> None:
    """Fill, measure, tell. Raises `BadSetting` for a database that is not PostgreSQL, or in which something is."""
    _require_empty()
    say(f"Filling PostgreSQL with {jobs:,} jobs ...")
    began = time.perf_counter()
    owner = users.create_user(EMAIL, "a long password", Actor("bench"), is_admin=True)
    million.fill(owner.id, jobs)
    say(f"... done in {time.perf_counter() - began:.0f} s.")
    app = create_app()
    ask = _asking(app, owner)
    say(f"{'page':<72}{'p50 ms':>8}{'max ms':>10}{'kB':>7}")
    with slow_queries(SLOW_S) as slow:
        over = [path for path in _paths(app) if not _timed(ask, path, say)]
    for statement, parameters in slow.items():
        say(plan(statement, parameters))
    say(f"Slower than the target: {', '.join(over) or 'none'}.")


def _require_empty() -> None:
    if get_engine().dialect.name != "postgresql":
        raise BadSetting("Set DATABASE_URL to an empty PostgreSQL database. This command fills it with a million rows.")
    engine.upgrade()
    with read_session() as session:
        if session.scalar(select(User.id).limit(1)) or session.scalar(select(Job.id).limit(1)):
            raise BadSetting(
                "The database of DATABASE_URL is not empty. Use an empty one, because this command fills it with a million rows."
            )


def _asking(app: Flask, owner: User) -> Callable[[str], Any]:
    """Ask for a page as a signed-in admin does."""
    client: FlaskClient = app.test_client()
    client.post("/sign-in", data={"email": EMAIL, "password": "a long password", "csrf_token": _form_token(client)})
    return client.get


def _form_token(client: FlaskClient) -> str:
    page = client.get("/sign-in").text
    return page.partition('name="csrf_token" value="')[2].partition('"')[0]


def _paths(app: Flask) -> list[str]:
    """Every page under /admin that needs no id, by the map of routes; the searches that are hardest; one job; the metrics."""
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/admin") and "GET" in (rule.methods or ())]
    pages = sorted({rule.rule for rule in rules if not rule.arguments} - {"/admin/jobs/act"})
    job_id, cause = _some_failure()
    searches = [one.replace("{cause}", cause) for one in million.SEARCHES]
    return [*pages, *searches, f"/jobs/{job_id}", "/api/v1/queues/failures", "/metrics"]


def _some_failure() -> tuple[str, str]:
    with read_session() as session:
        job_id, cause = session.execute(select(Job.id, Job.error_group).where(Job.status == "failed").limit(1)).one()
    return job_id, cause or ""


def _timed(ask: Callable[[str], Any], path: str, say: Say) -> bool:
    """Whether it keeps to its goal. The first time, in which templates and statements are compiled, is not counted."""
    answer = ask(path)
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        answer = ask(path)
        times.append((time.perf_counter() - began) * 1000)
    median = statistics.median(times)
    said = "" if answer.status_code == 200 else f"  {answer.status_code}"
    say(f"{path[:70]:<72}{median:>8.0f}{max(times):>10.0f}{len(answer.data) / 1024:>7.0f}{said}")
    return median <= (METRICS_MS if path == "/metrics" else PAGE_MS)
