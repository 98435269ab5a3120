"""Server-sent events, on each database. That a server holds many of them is in tests/system/acceptance/test_streams.py."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

import pytest
from flask import Flask

from monolith.db.engine import write_transaction
from monolith.db.models import JobEvent
from monolith.documents import event_stream
from monolith.documents.event_stream import FROM_NOW_ON, Feed, Stream
from monolith.runner.ledger import lifecycle
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.jobs import submit_job
from tests.support.listening import heard
from tests.support.visitor import signed_in

pytestmark = pytest.mark.databases


def listen(caller: Caller, path: str, last: str | None = None) -> Any:
    return heard(caller.get(path, headers={"Last-Event-ID": last} if last else None))


def test_a_job_is_told_from_its_submission_to_its_end(alice: Caller) -> None:
    job = submit_job(alice)
    stream = listen(alice, job["links"]["events"])
    first = next(stream)
    assert (first.name, first.data["event"], first.data["status"]) == ("status", "submitted", "queued")
    execute.run(job["id"])
    rest = list(stream)
    assert [(one.name, one.data["event"], one.data["note"]) for one in rest] == [
        ("status", "started", None),
        ("progress", "progress", "listening"),
        ("progress", "progress", "echoing"),
        ("status", "finished", None),
    ]
    numbers = [int(one.id or 0) for one in (first, *rest)]
    assert numbers == sorted(set(numbers)) and numbers[0] > 0
    assert all(one.data["job_id"] == job["id"] for one in rest)


def test_every_event_has_the_job_as_it_is_now(alice: Caller) -> None:
    job = submit_job(alice)
    execute.run(job["id"])
    told = list(listen(alice, job["links"]["events"]))
    assert {(one.data["status"], one.data["progress"]) for one in told} == {("finished", 100)}


def test_who_comes_back_is_told_the_rest_and_then_that_there_is_no_more(alice: Caller) -> None:
    job = submit_job(alice)
    execute.run(job["id"])
    told = list(listen(alice, job["links"]["events"]))
    assert list(listen(alice, job["links"]["events"], told[2].id)) == told[3:]
    assert alice.get(job["links"]["events"], headers={"Last-Event-ID": told[-1].id}).status_code == 204


def test_how_far_a_job_is_within_a_step_has_no_id_of_its_own(alice: Caller) -> None:
    job = submit_job(alice)
    stream = listen(alice, job["links"]["events"])
    claim = lifecycle.claim(job["id"], "w")
    assert claim and [one.data["event"] for one in islice(stream, 2)] == ["submitted", "started"]
    with write_transaction() as connection:
        connection.exec_driver_sql("UPDATE jobs SET progress = 40, progress_note = 'reading'")
    told = next(stream)
    assert (told.id, told.name, told.data["progress"], told.data["progress_note"]) == (None, "progress", 40, "reading")


def test_a_job_that_is_tried_again_says_why(alice: Caller) -> None:
    job = submit_job(alice, "trial_raise")
    stream = listen(alice, job["links"]["events"])
    execute.run(job["id"])
    told = list(islice(stream, 3))[-1]
    assert (told.data["event"], told.data["note"], told.data["status"]) == ("retrying", "the site answered 503", "scheduled")


def test_a_stream_ends_when_its_job_is_deleted(alice: Caller) -> None:
    job = submit_job(alice)
    stream = listen(alice, job["links"]["events"])
    next(stream)
    with write_transaction() as connection:
        connection.exec_driver_sql("DELETE FROM jobs")
    assert list(stream) == []


@pytest.mark.parametrize("path", ["/api/v1/jobs/none-such/events", "{theirs}"])
def test_what_is_not_yours_is_not_there(alice: Caller, bob: Caller, path: str) -> None:
    answer = bob.get(path.format(theirs=submit_job(alice)["links"]["events"]))
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")


def test_without_a_token_or_a_session_nothing_is_told(alice: Caller) -> None:
    for path in (submit_job(alice)["links"]["events"], "/api/v1/events"):
        assert alice.client.get(path).status_code == 401


def test_a_session_will_do_as_well(app: Flask, alice: Caller) -> None:
    job = submit_job(alice)
    client = signed_in(app).client
    assert next(heard(client.get(job["links"]["events"]))).data["event"] == "submitted"


def test_a_user_is_told_of_all_their_jobs_from_now_on_and_of_nobody_elses(alice: Caller, bob: Caller) -> None:
    submit_job(alice)
    stream = listen(alice, "/api/v1/events")
    assert next(stream).name == "ready"
    submit_job(bob)
    mine = [submit_job(alice), submit_job(alice, delay=60)]
    told = list(islice(stream, 2))
    assert [(one.data["job_id"], one.data["event"], one.data["status"]) for one in told] == [
        (mine[0]["id"], "submitted", "queued"),
        (mine[1]["id"], "submitted", "scheduled"),
    ]


def test_who_sees_all_is_told_of_everybodys_as_their_lists_show(admin: Caller, alice: Caller) -> None:
    stream = listen(admin, "/api/v1/events")
    next(stream)
    assert submit_job(alice)["id"] == next(stream).data["job_id"]


def test_a_user_who_comes_back_is_told_what_happened_meanwhile(alice: Caller) -> None:
    stream = listen(alice, "/api/v1/events")
    ready = next(stream)
    job = submit_job(alice)
    execute.run(job["id"])
    again = listen(alice, "/api/v1/events", ready.id)
    assert [one.data["event"] for one in islice(again, 5)] == ["submitted", "started", "progress", "progress", "finished"]


def test_a_user_who_was_away_for_too_long_is_told_to_read_the_lists(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_BEHIND", 2)
    for _ in range(4):
        submit_job(alice)
    stream = listen(alice, "/api/v1/events", "1")
    missed = next(stream)
    assert (missed.name, int(missed.id or 0) > 1) == ("missed", True)
    assert submit_job(alice)["id"] == next(stream).data["job_id"]


def test_many_events_are_told_in_steps_and_each_once(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream.events, "STEP", 3)
    stream = listen(alice, "/api/v1/events")
    next(stream)
    jobs = [submit_job(alice)["id"] for _ in range(10)]
    assert [one.data["job_id"] for one in islice(stream, 10)] == jobs


def test_an_event_that_is_committed_late_is_told_all_the_same(alice: Caller) -> None:
    """PostgreSQL gives a number before the commit, so that a lower one may appear after a higher one was seen."""
    job = submit_job(alice)
    feed, stream = Feed(), Stream(alice.user.id, False, None, FROM_NOW_ON)
    told = _told(feed, stream)
    with write_transaction() as late:
        late.execute(JobEvent.__table__.insert().values(job_id=job["id"], name="progress", attempt=1, note="late"))
        has_several_writers = late.dialect.name == "postgresql"
        if has_several_writers:
            submit_job(alice)
            told += _told(feed, stream)
    if not has_several_writers:
        submit_job(alice)
    told += _told(feed, stream)
    assert re.findall(r'"event": "(\w+)"', told) == ["progress", "submitted"]


def _told(feed: Feed, stream: Stream) -> str:
    return "".join(text for _, text in feed.read([stream]))
