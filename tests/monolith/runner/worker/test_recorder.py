"""Outcomes that the ledger does not take: kept on disk, recorded when it does, by their claim, and given up in the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from monolith.db.engine import get_engine, now, write_session
from monolith.db.models import Job
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.lifecycle import Claim
from monolith.runner.prefork.hooks import LATER
from monolith.runner.worker import execute, kept_outcomes, recorder, transfer
from monolith.runner.worker.ledger_worker import LedgerHooks
from monolith.runner.worker.recorder import Recorder
from tests.support.callers import Caller
from tests.support.jobs import new_jobs, run_due, stored

REFUSE = {
    "sqlite": (
        "CREATE TRIGGER refuse BEFORE UPDATE ON jobs WHEN NEW.status IN ('finished', 'failed', 'scheduled') "
        "BEGIN SELECT RAISE(ABORT, 'the archive is full'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the archive is full'; END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.status IN ('finished', 'failed', 'scheduled')) "
        "EXECUTE FUNCTION refuse()",
    ),
}
ACCEPT = {"sqlite": ("DROP TRIGGER refuse",), "postgresql": ("DROP TRIGGER refuse ON jobs", "DROP FUNCTION refuse")}

pytestmark = pytest.mark.databases


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "outcomes"


@pytest.fixture
def refusing(alice: Caller) -> Iterator[Callable[[bool], None]]:
    """A database that takes no end of a job, for as long as it takes."""

    def refuse(does: bool) -> None:
        with write_session() as session:
            for statement in (REFUSE if does else ACCEPT)[get_engine().dialect.name]:
                session.execute(text(statement))

    refuse(True)
    yield refuse


def ended(alice: Caller, name: str = "trial_follow", **params: Any) -> tuple[Claim, bytes]:
    """A job that has run in a child, and what the child reports."""
    job = new_jobs(alice.user.id, name, params=params)[0]
    claim = lifecycle.claim(job.id, "w")
    assert claim
    ending = execute.perform(claim)
    packed = ending and transfer.pack_ending(ending)
    assert packed
    return claim, packed


def record(claim: Claim, packed: bytes) -> list[Any]:
    """What the hook process answers."""
    return LedgerHooks("w").record([(claim.job_id, claim.number, packed)])


def files(home: Path) -> list[str]:
    return sorted(one.name for one in home.iterdir() if one.name != "lock")


def test_what_the_database_refuses_is_kept_and_recorded_when_it_does_not_any_more(
    alice: Caller, home: Path, refusing: Callable[[bool], None]
) -> None:
    claim, packed = ended(alice)
    assert record(claim, packed) == [None]
    [kept] = kept_outcomes.all_kept()
    assert (kept.claim, kept.path.stat().st_mode & 0o777, home.stat().st_mode & 0o777) == (
        (claim.job_id, claim.number),
        0o600,
        0o700,
    )
    with write_session() as session:
        session.execute(update(Job).values(heartbeat_at=now() - 60))
    Recorder().work()
    row = stored(claim.job_id)
    assert (row.status, row.attempt, files(home)) == ("started", 1, [kept.path.name])
    with write_session() as session:  # nobody gives the job to another worker
        assert session.scalar(text("SELECT heartbeat_at FROM jobs WHERE id = :id"), {"id": claim.job_id}) > row.created_at - 1
    refusing(False)
    Recorder().work()
    row = stored(claim.job_id)
    assert (row.status, row.attempt, row.claims, files(home)) == ("finished", 1, 1, [])


def test_what_a_database_without_its_tables_does_not_take_is_kept(alice: Caller, home: Path) -> None:
    claim, packed = ended(alice, "trial_echo")
    for old, new in (("jobs", "away"), ("away", "jobs")):
        with write_session() as session:
            session.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))
        if old == "jobs":
            assert record(claim, packed) == [None]
        Recorder()._work_safely()
        assert len(files(home)) == (old == "jobs")
    assert stored(claim.job_id).status == "finished"


@pytest.mark.parametrize("is_held", [False, True], ids=["queued", "held by a limit"])
@pytest.mark.parametrize("name", ["trial_echo", "trial_raise"])
def test_a_job_that_was_given_up_with_its_worker_does_not_run_again_when_its_outcome_is_found(
    alice: Caller, home: Path, refusing: Callable[[bool], None], name: str, is_held: bool
) -> None:
    claim, packed = ended(alice, name)
    record(claim, packed)
    lifecycle.interrupt(claim.job_id, claim.number, "its worker went silent")
    assert (stored(claim.job_id).status, stored(claim.job_id).attempt) == ("queued", 0)
    refusing(False)
    hooks = LedgerHooks("another")
    assert hooks.claim([claim.job_id]) == [LATER]
    if is_held:
        held = {"job_id": claim.job_id, "held_by": "max_running:other", "reason": "One runs, which is the limit."}
        assert lifecycle.HOLD.apply_each([held])
    assert not execute.run(claim.job_id)
    Recorder().work()
    assert hooks.claim([claim.job_id]) == [None]
    row = stored(claim.job_id)
    assert (row.held_by, row.held_since) == (None, None)
    assert (row.status, row.attempt, row.claims) == ("finished" if name == "trial_echo" else "scheduled", 1, 1)
    assert [event.name for event in row.events if event.name != "held"][-3:-1] == ["interrupted", "recovered"]
    assert files(home) == []


@pytest.mark.parametrize("meanwhile", ["requeued", "claimed again", "canceled", "ended"])
def test_an_outcome_of_an_older_claim_changes_nothing(alice: Caller, home: Path, refusing: Callable[[bool], None], meanwhile: str) -> None:
    claim, packed = ended(alice, "trial_echo")
    record(claim, packed)
    refusing(False)
    if meanwhile == "ended":
        LedgerHooks("w").record([(claim.job_id, claim.number, packed)])
    else:
        lifecycle.interrupt(claim.job_id, claim.number, "its worker went silent")
    if meanwhile == "claimed again":  # on another host
        assert lifecycle.claim(claim.job_id, "another")
    elif meanwhile != "ended":
        lifecycle.cancel(claim.job_id)
    if meanwhile == "requeued":
        lifecycle.requeue(claim.job_id)
    before = [event.name for event in stored(claim.job_id).events]
    Recorder().work()
    assert [event.name for event in stored(claim.job_id).events] == before
    assert files(home) == []


def test_a_run_whose_outcome_cannot_be_kept_either_counts_as_an_attempt(
    alice: Caller, home: Path, refusing: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_outcomes, "MAX_FILES", 0)
    claim, packed = ended(alice, "trial_echo")
    hooks = LedgerHooks("w")
    ask = [(claim.job_id, claim.number, packed)]
    assert hooks.record(ask) == [LATER]
    monkeypatch.setattr(execute, "RECORDING_S", 0.0)
    assert hooks.record(ask) == [LATER]  # that is refused as well
    refusing(False)
    monkeypatch.setattr(lifecycle, "record", _refusing_once(lifecycle.record))
    assert hooks.record(ask) == [None]
    row = stored(claim.job_id)
    assert (row.status, row.attempt, row.error_type, files(home)) == ("scheduled", 1, "unrecorded", [])
    assert run_due(claim.job_id).attempt == 2


def _refusing_once(record: Callable[..., Any]) -> Callable[..., Any]:
    """The first call fails as if the disk of the database were full."""
    calls: list[Any] = []

    def call(endings: Any, *more: Any) -> Any:
        calls.append(endings)
        if len(calls) == 1:
            with write_session() as session:
                session.execute(text("SELECT no_such_column FROM jobs"))
        return record(endings, *more)

    return call


def test_an_outcome_is_given_up_after_days_and_counts_as_an_attempt(alice: Caller, home: Path, refusing: Callable[[bool], None]) -> None:
    claim, packed = ended(alice, "trial_echo")
    record(claim, packed)
    refusing(False)
    [kept] = kept_outcomes.all_kept()
    long_ago = time.time() - kept_outcomes.KEPT_S - 1
    os.utime(kept.path, (long_ago, long_ago))
    (home / f"abandoned.1.json.1{kept_outcomes.DRAFT}").touch()
    os.utime(home / f"abandoned.1.json.1{kept_outcomes.DRAFT}", (long_ago, long_ago))
    Recorder().work()
    row = stored(claim.job_id)
    assert (row.status, row.attempt, row.error_type, files(home)) == ("scheduled", 1, "unrecorded", [])


def test_while_a_process_that_records_is_frozen_another_does(
    alice: Caller, home: Path, refusing: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_DENIED", 1)
    claim, packed = ended(alice, "trial_echo")
    record(claim, packed)
    refusing(False)
    one = Recorder()
    with kept_outcomes.alone():
        one.work()
        assert stored(claim.job_id).status == "started"
        one.work()
    assert stored(claim.job_id).status == "finished"


def test_files_that_are_not_ours_or_broken_hold_up_nothing(alice: Caller, home: Path, refusing: Callable[[bool], None]) -> None:
    claim, packed = ended(alice, "trial_echo")
    broken, foreign = ended(alice, "trial_echo")[0], ended(alice, "trial_echo")[0]
    record(claim, packed)
    refusing(False)
    (home / f"{broken.job_id}.1.json").write_bytes(b'{"ending": [')
    [kept] = kept_outcomes.all_kept()[:1]
    (home / f"{foreign.job_id}.1.json").write_bytes((home / f"{claim.job_id}.1.json").read_bytes())
    (home / "a link.1.json").symlink_to("/etc/passwd")
    (home / "link.1.json").symlink_to("/etc/passwd")
    Recorder().work()
    assert stored(claim.job_id).status == "finished"
    assert {stored(one.job_id).status for one in (broken, foreign)} == {"started"}
    unreadable = [f"{one.job_id}.1.json{kept_outcomes.UNREADABLE}" for one in (broken, foreign)]
    assert files(home) == sorted([*unreadable, "a link.1.json", "link.1.json"])


def test_what_is_kept_says_all_that_a_run_leaves(alice: Caller) -> None:
    claim, packed = ended(alice, "trial_follow", type="trial_echo", params={"value": "é \U0001f433"})
    ending = transfer.unpack_ending(packed)
    assert transfer.ending_from_json(transfer.ending_to_json(ending)) == ending
    content = json.loads(transfer.ending_to_json(ending))
    content["boot"] = "another"
    later = transfer.ending_from_json(json.dumps(content).encode())
    execute.record([later])  # of a machine that was started again since
    row = stored(claim.job_id)
    assert row.status == "finished" and 0 <= row.ended_at - row.started_at < 1


def test_too_large_outcomes_and_a_folder_that_cannot_be_written_are_not_kept(
    alice: Caller, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, packed = ended(alice, "trial_echo")
    ending = transfer.unpack_ending(packed)
    monkeypatch.setattr(kept_outcomes, "MAX_FILE", 10)
    assert not kept_outcomes.keep(ending)
    monkeypatch.undo()
    monkeypatch.setattr(kept_outcomes, "folder", lambda: Path("/proc/outcomes"))
    assert not kept_outcomes.keep(ending)
    assert not list(home.iterdir())


def test_an_outcome_that_is_refused_is_tried_less_and_less(
    alice: Caller, refusing: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, packed = ended(alice, "trial_echo")
    record(claim, packed)
    monkeypatch.setattr(recorder, "LOOK_S", 600.0)
    monkeypatch.setattr(recorder, "LONGEST_WAIT_S", 600.0)
    one = Recorder()
    one.work()
    refusing(False)
    one.work()
    assert stored(claim.job_id).status == "started"
    Recorder().work()
    assert stored(claim.job_id).status == "finished"
