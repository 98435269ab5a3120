"""Every page on a phone, with values of 300 letters and no place to break a line, wherever somebody or something gives one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Browser, Page
from rq import Worker
from sqlalchemy import String, insert, update
from werkzeug.serving import make_server

from monolith.accounts.models import UserSession
from monolith.db.engine import now, read_now, write_session
from monolith.db.models import Artefact, Document, Job, JobEvent, Sample, User, new_id
from monolith.runner.admin.bulk_retry import BulkRetry
from monolith.runner.admin.trash import Cleaning
from monolith.runner.ledger.audit import AuditEntry
from monolith.runner.ledger.batches import Batch, BatchItem
from monolith.runner.ledger.pauses import Pause
from monolith.runner.llm.circuit_breaker import CircuitBreaker
from monolith.runner.monitoring.alerts import Alert
from monolith.runner.queue import rq_queues
from monolith.runner.scheduler.cron_schedules import Schedule
from monolith.runner.webhooks.models import Delivery, SigningSecret, Webhook
from monolith.runner.worker import execute
from tests.support.browser import sign_in
from tests.support.callers import Caller
from tests.support.jobs import stored, submit_job, submit_text

LONG = "W" * 300  # the widest letter
EMAIL = "w" * 200 + "@example.org"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
ENDED = ("finished", "failed", "stopped", "canceled")
# Elements that are wider than the page, and are not in one that scrolls by itself or cuts them off.
TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter((one) => {
    const box = one.getBoundingClientRect();
    if (!box.width || !box.height || box.right <= 391) return false;
    for (let outer = one.parentElement; outer; outer = outer.parentElement)
        if (getComputedStyle(outer).overflowX !== "visible") return false;
    return true;
}).map((one) => `${one.tagName.toLowerCase()}.${one.getAttribute("class") || ""} ${Math.round(one.getBoundingClientRect().right)}`)"""


@pytest.fixture
def admin(caller: Any) -> Caller:
    found: Caller = caller(EMAIL, is_admin=True)
    return found


@pytest.fixture
def served(app: Flask) -> Iterator[str]:
    """The address of the application, served by threads of this process: its database is filled by hand."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


NO_PAGES = ("audit_pages.sheet", "api-docs.openapi_json", "health.health", "health.ready", "metrics.metrics", "job_pages.result")
NO_PAGES += ("job_pages.job_live", "batch_pages.live", "overview_pages.part", "alerts_pages.opened")  # parts of pages
NO_PAGES += ("failures_pages.in_progress", "schedules_pages.preview")


def filled(table: Any, **values: Any) -> str | int:
    """A row of this table whose texts are as long as they may be, but for these values; its id."""
    columns = [one for one in table.__table__.columns if isinstance(one.type, String) and one.name not in values and not one.foreign_keys]
    texts = {
        one.name: LONG[: one.type.length or len(LONG)] for one in columns if one.name not in ("id", "job_id", "sender_id", "parent_id")
    }
    with write_session() as session:
        row = table(**{**texts, **values})
        session.add(row)
        session.flush()
        found: str | int = getattr(row, "id", "")
    return found


def longer(value: Any) -> Any:
    """A result with each sentence in it replaced by one long word; short texts may be names that a page knows."""
    if isinstance(value, str):
        return LONG if " " in value or len(value) > 20 else value
    if isinstance(value, dict):
        return {name: longer(inner) for name, inner in value.items()}
    return [longer(one) for one in value] if isinstance(value, list) else value


def fill(admin: Caller) -> dict[str, list[Any]]:
    """Something long in every table; example values of the arguments that routes have."""
    owner = {"owner_id": admin.user.id}
    document = filled(
        Document,
        **owner,
        kind="application",
        tags=[LONG[:50]] * 3,
        media_type="text/plain",
        source_url=f"https://{LONG}",
        route="ONLINE",
        decision="approve",
        score=5,
        size=5,
    )
    job = {
        **owner,
        "document_id": document,
        "priority": "normal",
        "params": {LONG: LONG},
        "max_attempts": 3,
        "created_at": now(),
        "queued_at": now(),
        "started_at": now(),
        "heartbeat_at": now(),
        "held_by": None,
        "content_key": None,
    }
    jobs = [
        filled(
            Job,
            **job,
            status=one,
            attempt=1,
            ended_at=now() if one in ENDED else None,
            result={LONG: {LONG: [LONG, {LONG: LONG}]}} if one == "finished" else None,
            progress=5.0,
        )
        for one in ("queued", "scheduled", "started", *ENDED)
    ]
    for job_id in jobs:
        filled(Artefact, job_id=job_id, size=1, content=b"a", media_type="text/plain")
        for name in ("started", "progress", "retrying", "mark.sent"):
            filled(JobEvent, job_id=job_id, name=name, attempt=1)
    jobs += with_results(admin, document)
    batch = filled(Batch, **owner, refused=[{"name": LONG, "detail": LONG}])
    for place, job_id in enumerate(jobs[:3]):
        filled(BatchItem, batch_id=batch, place=place, document_id=document, job_id=job_id)
    filled(Pause, scope=f"type:{LONG[:60]}")
    secret = filled(SigningSecret, **owner)
    webhook = filled(Webhook, **owner, secret_id=secret, events=["job.finished"], disabled_at=now(), url=f"https://{LONG}")
    filled(Delivery, webhook_id=webhook, state="failed", type="job.finished", attempts=1, response_status=500)
    schedule = filled(
        Schedule, **owner, priority="normal", params={"text": LONG}, is_on=True, type="analyze", cron="0 0 * * *", next_at=now()
    )
    filled(AuditEntry, before={LONG: LONG}, after={LONG: LONG + "X"})
    filled(Alert, code="breaker_open", severity="warning", closed_at=now())
    filled(CircuitBreaker, failures=1, open_until=now() + 60)
    filled(Cleaning, criteria={"status": "failed", "error": LONG, "text": LONG, "owner": LONG})
    filled(BulkRetry, per_minute=5, total=10, ended_at=None)
    filled(BulkRetry, per_minute=5, total=10, ended_at=now())
    filled(Sample, at=read_now() - 60, queued=3, finished=3, failed=3)
    filled(UserSession, user_id=admin.user.id)
    admin.post("/api/v1/tokens", json={"name": LONG[:100]})
    worker = Worker([rq_queues.queue("default.normal")], name=LONG[:100], connection=rq_queues.connection())
    worker.register_birth()
    rq_queues.connection().hset(worker.key, "hostname", LONG)
    return {
        "document_id": [document],
        "job_id": jobs,
        "batch_id": [batch],
        "webhook_id": [webhook],
        "schedule_id": [schedule],
        "name": ["report", "email"],
    }


def with_results(admin: Caller, document: Any) -> list[str]:
    """A finished job for each page of a result, with long values in it."""
    made = [
        submit_text(admin, "Marlin keeps a list. It is fast, and easy to install. It lacks tests.", kind="application", jobs=[name])[
            "jobs"
        ][0]["id"]
        for name in ("analyze", "quality_check", "generate_docs", "enhance")
    ]
    made.append(submit_job(admin, "report")["id"])
    for job_id in made:
        execute.run(job_id)
        assert stored(job_id).status == "finished", stored(job_id).error_message
    run = {"exit_code": 1, "kind": LONG, "log": LONG, "note": LONG, "killed": None, "steps": [LONG], "left_out": [LONG], "usage": {}}
    diagnostic = {"file": LONG, "line": 1, "column": 1, "rule": LONG, "severity": "error", "message": LONG, "source": LONG}
    case = {"name": LONG, "class": LONG, "outcome": "failed", "seconds": 1.0, "message": LONG}
    projects = {
        "build": {**run, "artifacts": [{"name": LONG, "path": LONG, "size": 1}]},
        "test": {**run, "cases": [case, {**case, "outcome": "passed"}], "totals": {"total": 2, "failed": 1}},
        "lint": {**run, "diagnostics": [diagnostic], "totals": {"error": 1, "warning": 0}},
    }
    with write_session() as session:
        for job_id in made:
            session.execute(update(Job).where(Job.id == job_id).values(result=longer(stored(job_id).result)))
        for name, result in projects.items():
            common = {
                "owner_id": admin.user.id,
                "document_id": document,
                "queue": "default",
                "priority": "normal",
                "params": {},
                "max_attempts": 1,
                "status": "finished",
                "ended_at": now(),
                "started_at": now(),
            }
            made.append(new_id())
            session.execute(insert(Job).values(id=made[-1], type=name, result=result, **common))
        session.execute(update(User).values(mail_failed=True))
    return made


def paths(app: Flask, examples: dict[str, list[Any]]) -> Iterator[str]:
    """Every page, by the map of routes, with each example of its argument; and some that answer with what was asked."""
    for rule in app.url_map.iter_rules():
        if "GET" not in (rule.methods or ()) or rule.rule.startswith(("/api/v1", "/static", "/admin/rq")) or rule.endpoint in NO_PAGES:
            continue
        (argument,) = rule.arguments or {""}
        for value in examples[argument] if argument else [""]:
            yield app.url_map.bind("localhost").build(rule.endpoint, {argument: value} if argument else {})
    yield from (f"/jobs/{LONG}", f"/documents?q={LONG}&tag={LONG}", f"/admin/jobs?error={LONG}&owner={LONG}&queue={LONG}")
    yield from (f"/admin/jobs/act?act=requeue&all=1&error={LONG}&owner={LONG}", f"/admin/audit?subject={LONG}", f"/jobs?type={LONG}")
    yield "/admin/bin?status=failed&age=0&unit=hours"


@pytest.mark.timeout(600)
def test_no_page_is_wider_than_a_phone(browser: Browser, app: Flask, admin: Caller, served: str) -> None:
    examples = fill(admin)
    context = browser.new_context(base_url=served, **PHONE)  # type: ignore[arg-type]
    page = context.new_page()
    sign_in(page, email=EMAIL).wait_for_url("**/")
    wide = {path: found for path in paths(app, examples) if (found := wider_than_the_window(page, path))}
    context.close()
    assert wide == {}, "\n".join(f"{path[:90]}\n    " + "\n    ".join(found) for path, found in wide.items())


def wider_than_the_window(page: Page, path: str) -> list[str]:
    """What sticks out of this page, with all that can be opened open."""
    page.goto(path)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    width = page.evaluate("document.documentElement.scrollWidth")
    return [f"{width} px", *page.evaluate(TOO_WIDE)[:12]] if width > 390 else []
