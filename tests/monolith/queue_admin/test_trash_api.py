"""Cleaning by status, age and type; the bin, and what becomes of what is in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rq.job import Job as RqJob
from sqlalchemy import func, select, update

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Artefact, Job, JobEvent
from monolith.job_types import registry
from monolith.runner.admin import bulk_actions, trash
from monolith.runner.admin.job_filter import JobFilter
from monolith.runner.admin.trash import Cleaning
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.audit import Actor, AuditEntry
from monolith.runner.ledger.balance import balance
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.queue import rq_queues
from monolith.runner.worker import execute
from tests.support.callers import Caller

pytestmark = pytest.mark.databases

DAY_S = 24 * 3600
Make = Callable[..., list[str]]


@pytest.fixture
def make(alice: Caller) -> Make:
    """Make jobs that ran and ended so many days ago; `run=False`: that wait since."""

    def some(name: str = "trial_permanent", number: int = 1, days: float = 0, *, run: bool = True, **wanted: object) -> list[str]:
        jobs = lifecycle.submit(alice.user.id, [JobSpec(registry.find(name), {"value": 1}, **wanted) for _ in range(number)])
        for job in jobs if run else ():
            execute.run(job.id)
        ids = [job.id for job in jobs]
        with write_session() as session:
            since = now() - days * DAY_S
            session.execute(update(Job).where(Job.id.in_(ids)).values(created_at=since))
            session.execute(update(Job).where(Job.id.in_(ids), Job.ended_at.is_not(None)).values(ended_at=since))
        return ids

    return some


def clean(admin: Caller, **body: object) -> dict[str, object]:
    answer = admin.post("/api/v1/queues/clean", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json


def seen(caller: Caller) -> set[str]:
    return {job["id"] for job in caller.get("/api/v1/jobs?limit=100").json["data"]}


def rows(table: type) -> int:
    with read_session() as session:
        return session.scalar(select(func.count()).select_from(table))


def empty_bin(*, hours: float) -> None:
    with write_session() as session:
        session.execute(update(Cleaning).values(at=now() - hours * 3600))
    for _ in trash.empty_trash():
        pass


def test_old_jobs_of_a_status_are_cleaned_and_younger_and_others_stay(admin: Caller, make: Make) -> None:
    old, young, done = make(number=2, days=8), make(days=1), make("trial_echo", days=8)
    assert clean(admin, status="failed", older_than=7 * DAY_S) == {**cleaned(2), "cleaning_id": 1}
    assert seen(admin) == {*young, *done}
    for job_id in old:
        assert admin.get(f"/api/v1/jobs/{job_id}").status_code == 404
        assert admin.post(f"/api/v1/jobs/{job_id}/requeue").status_code == 404
        assert lifecycle.requeue(job_id) is False
    assert balance().imbalance == 0


def cleaned(count: int) -> dict[str, object]:
    return {"object": "cleaned", "matched": count, "deleted": count}


def test_one_type_only_where_it_is_asked_for(admin: Caller, make: Make) -> None:
    make("trial_permanent", days=8)
    raised = make("trial_raise", run=False, days=8)
    assert clean(admin, status="failed", older_than=0, type="trial_raise")["deleted"] == 0
    assert clean(admin, status="queued", older_than=0, type="trial_raise")["deleted"] == 1
    assert not seen(admin) & set(raised)


def test_a_dry_run_says_how_many_from_when_to_when_and_shows_five(admin: Caller, make: Make) -> None:
    ids = [make(days=days)[0] for days in range(8, 15)]
    found = clean(admin, status="failed", older_than=7 * DAY_S, dry_run=True)
    assert (found["matched"], found["deleted"]) == (7, 0)
    assert found["oldest"] < found["newest"]
    assert [one["id"] for one in found["samples"]] == ids[:5]
    assert found["samples"][0]["error"] == "The file is broken. Export it again."
    assert seen(admin) == set(ids)


@pytest.mark.parametrize(("status", "wanted"), [("queued", {}), ("scheduled", {"delay": 600})])
def test_what_waits_is_cancelled_first_and_comes_back_as_cancelled(
    admin: Caller, make: Make, status: str, wanted: dict[str, object]
) -> None:
    (job_id,) = make(run=False, days=2, **wanted)
    cleaning_id = clean(admin, status=status, older_than=DAY_S)["cleaning_id"]
    execute.run(job_id)  # its message comes all the same
    assert admin.post(f"/api/v1/queues/cleanings/{cleaning_id}/restore").json == {"object": "restored", "restored": 1, "left": 0}
    job = admin.get(f"/api/v1/jobs/{job_id}").json
    assert (job["status"], job["attempt"]) == ("canceled", 0)
    assert admin.post(f"/api/v1/jobs/{job_id}/requeue").status_code == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"status": "started", "older_than": 0}, "/status"),
        ({"status": "lost", "older_than": 0}, "/status"),
        ({"status": "failed"}, "/older_than"),
        ({"status": "failed", "older_than": -1}, "/older_than"),
        ({"older_than": 1}, "/status"),
        ({"status": "failed", "older_than": 1, "all": True}, "/all"),
    ],
    ids=str,
)
def test_what_cannot_be_cleaned_is_refused_with_the_mend(admin: Caller, make: Make, body: dict[str, object], pointer: str) -> None:
    make(days=1)
    answer = admin.post("/api/v1/queues/clean", json=body)
    assert answer.status_code == 422
    assert pointer in [one["pointer"] for one in answer.json["errors"]]
    assert len(seen(admin)) == 1


def test_jobs_that_run_say_what_to_do(admin: Caller) -> None:
    answer = admin.post("/api/v1/queues/clean", json={"status": "started", "older_than": 0})
    assert "Stop them" in answer.json["detail"]


def test_a_cleaning_is_restored_as_a_whole_within_a_day(admin: Caller, make: Make) -> None:
    first, second = make(number=2, days=9), make(number=3, days=3)
    for days in (8, 2):
        clean(admin, status="failed", older_than=days * DAY_S)
    listed = admin.get("/api/v1/queues/cleanings").json["data"]
    assert [(one["id"], one["jobs"], one["cleaned_by"], one["criteria"]["status"]) for one in listed] == [
        (2, 3, "admin@example.org", "failed"),
        (1, 2, "admin@example.org", "failed"),
    ]
    assert admin.post("/api/v1/queues/cleanings/1/restore").json["restored"] == 2
    assert seen(admin) == set(first)
    empty_bin(hours=23)
    assert admin.post("/api/v1/queues/cleanings/2/restore").json["restored"] == 3
    assert seen(admin) == {*first, *second}
    assert admin.post("/api/v1/queues/cleanings/2/restore").status_code == 404
    assert admin.get("/api/v1/queues/cleanings").json["data"] == []


def test_after_a_day_they_are_gone_with_events_files_and_what_redis_has(admin: Caller, make: Make) -> None:
    kept = make("trial_echo")
    gone = [*make("trial_echo", number=2, days=8), *make("trial_echo", days=8, run=False)]
    registry_of_rq = rq_queues.queue("default.normal").finished_job_registry
    for job_id in gone:
        rq_queues.connection().hset(RqJob.key_for(job_id), "status", "finished")
        rq_queues.connection().zadd(registry_of_rq.key, {job_id: 4e9})
    for status in ("finished", "queued"):
        clean(admin, status=status, older_than=DAY_S)
    events, files = rows(JobEvent), rows(Artefact)
    empty_bin(hours=25)
    assert seen(admin) == set(kept)
    assert rows(Job) == 1
    assert (rows(JobEvent) < events, rows(Artefact) < files, rows(Cleaning)) == (True, True, 0)
    assert not any(rq_queues.connection().exists(RqJob.key_for(job_id)) for job_id in gone)
    assert rq_queues.connection().zcard(registry_of_rq.key) == 0
    assert rq_queues.waiting_ids("default.normal") == set(kept)
    assert (balance().accepted, balance().pruned, balance().imbalance) == (4, 3, 0)
    assert admin.post("/api/v1/queues/cleanings/1/restore").status_code == 404


def test_a_document_with_jobs_in_the_bin_is_deleted_and_the_ledger_balances(alice: Caller, admin: Caller) -> None:
    given = alice.post("/api/v1/documents", json={"text": "mine", "jobs": ["analyze", "analyze"]}).json
    with write_session() as session:
        session.execute(update(Job).where(Job.id == given["jobs"][0]["id"]).values(created_at=now() - DAY_S))
    assert clean(admin, status="queued", older_than=60)["deleted"] == 1
    assert len(alice.get(f"/api/v1/documents/{given['document']['id']}").json["jobs"]) == 1
    assert alice.delete(f"/api/v1/documents/{given['document']['id']}").status_code == 204
    assert (balance().accepted, balance().pruned, balance().imbalance) == (2, 2, 0)
    empty_bin(hours=25)
    assert rows(Cleaning) == 0


def test_the_same_story_submitted_again_comes_out_of_the_bin(alice: Caller, admin: Caller) -> None:
    story = {"type": "enhance", "params": {"title": "A new battery", "content": "It lasts for ever, says its maker. " * 5}}
    job_id = alice.post("/api/v1/jobs", json=story).json["id"]
    assert clean(admin, status="queued", older_than=0)["deleted"] == 1
    again = alice.post("/api/v1/jobs", json=story)
    assert (again.json["id"], again.json["status"]) == (job_id, "canceled")
    assert alice.get(f"/api/v1/jobs/{job_id}").status_code == 200


def test_what_failed_again_since_it_was_looked_at_is_not_cleaned(admin: Caller, make: Make) -> None:
    """The guard stands twice: between the look and the act a person may have started a job again."""
    (old,) = make(days=8)
    criteria = trash.older_than(7 * DAY_S, "failed")
    act = bulk_actions.find("clean")

    def late(given: JobFilter, found: object, by: Actor, number: int | None) -> tuple[int, int | None]:
        lifecycle.requeue(old)
        execute.run(old)
        return act.apply(given, found, by, number)

    assert bulk_actions.run(bulk_actions.BulkAction("clean", act.statuses, "", late), criteria, Actor("tests")).changed == 0
    assert seen(admin) == {old}
    assert rows(Cleaning) == 0


def test_cleaning_and_restoring_are_written_down(admin: Caller, make: Make) -> None:
    make(number=2, days=8)
    clean(admin, status="failed", older_than=DAY_S)
    admin.post("/api/v1/queues/cleanings/1/restore")
    with read_session() as session:
        entries = session.scalars(select(AuditEntry).order_by(AuditEntry.id)).all()
    assert [(one.actor, one.act, one.subject, one.count) for one in entries] == [
        ("admin@example.org", "clean", "deletion 1", 2),
        ("admin@example.org", "restore", "deletion 1", 2),
    ]
    assert entries[0].after["status"] == "failed"


def test_submitters_are_refused_and_viewers_may_look(alice: Caller, caller: Callable[..., Caller], make: Make) -> None:
    make(days=8)
    viewer = caller("viewer@example.org", is_viewer=True)
    for one in (alice, viewer):
        assert one.post("/api/v1/queues/clean", json={"status": "failed", "older_than": 0}).status_code == 403
        assert one.post("/api/v1/queues/cleanings/1/restore").status_code == 403
    assert (alice.get("/api/v1/queues/cleanings").status_code, viewer.get("/api/v1/queues/cleanings").status_code) == (403, 200)
