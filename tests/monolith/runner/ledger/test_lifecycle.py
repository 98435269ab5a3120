"""The life of a job, each row of the table, on each database; the function of a message is called as a worker calls it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from marshmallow import Schema
from sqlalchemy import func, select, text, update
from structlog.testing import capture_logs

from monolith.db.engine import now, read_now, read_session, write_session, write_transaction
from monolith.db.models import Job, JobEvent, Lease
from monolith.errors import MAX_SNOOZE_S
from monolith.job_types import registry
from monolith.runner.ledger import clock_lease, lifecycle
from monolith.runner.ledger.lifecycle import Failure
from monolith.runner.ledger.outcomes import Outcome
from monolith.runner.monitoring import waiting_reason
from monolith.runner.queue import rq_queues
from monolith.runner.scheduler import clock
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.jobs import make_due, new_jobs, run_due, stored

pytestmark = pytest.mark.databases


@pytest.fixture
def submit(alice: Caller) -> Callable[..., Job]:
    return lambda name, params=None, **wanted: new_jobs(alice.user.id, name, params=params, **wanted)[0]


def test_a_submitted_job_is_queued_and_its_id_is_pushed_to_the_queue_of_its_priority(submit):
    job = submit("trial_echo", priority="high")
    assert stored(job.id).status == "queued"
    assert rq_queues.waiting_ids("default.high") == {job.id}
    message = rq_queues.queue("default.high").fetch_job(job.id)
    assert (message.func_name, list(message.args), message.kwargs) == (rq_queues.FUNCTION, [job.id], {})


def test_a_job_that_returns_is_finished_with_its_result_and_its_files(submit):
    job = submit("trial_echo", {"value": {"text": "Grüße"}})
    execute.run(job.id)
    row = stored(job.id)
    assert (row.status, row.attempt, row.result, row.progress) == ("finished", 1, {"value": {"text": "Grüße"}}, 100)
    assert [file.name for file in row.artefacts] == ["echo.txt"]
    assert [event.name for event in row.events] == ["submitted", "started", "progress", "progress", "finished"]
    assert row.created_at <= row.started_at <= row.ended_at


def test_a_job_whose_own_database_is_away_has_failed(submit):
    job = submit("trial_own_database")
    execute.run(job.id)
    row = stored(job.id)
    assert (row.status, row.attempt, row.error_type) == ("failed", 1, "OperationalError")
    assert "unable to open database file" in row.error_message


def test_a_message_that_comes_twice_runs_the_job_once(submit):
    job = submit("trial_echo")
    execute.run(job.id)
    execute.run(job.id)
    assert [event.name for event in stored(job.id).events].count("started") == 1


@pytest.mark.databases("postgresql")
def test_a_claim_reads_its_own_jobs_however_many_are_queued(alice: Caller) -> None:
    """Nothing has analysed the table: PostgreSQL takes the queued jobs for a few."""
    jobs = new_jobs(alice.user.id, "trial_echo", 5000)
    read = text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'jobs'")
    with write_transaction() as connection:
        claims = [{"job_id": job.id, "worker": "w", "note": "w"} for job in jobs[:10]]
        before = connection.scalar(read)
        assert len(lifecycle.CLAIM.apply_each(claims, connection=connection)) == 10
        assert 10 <= connection.scalar(read) - before < 100


def test_a_delayed_job_is_scheduled_and_queued_by_the_clock_when_it_is_due(submit):
    job = submit("trial_echo", delay=60)
    assert stored(job.id).status == "scheduled"
    assert lifecycle.queue_due(10) == []
    make_due(job.id)
    assert [one.id for one in lifecycle.queue_due(10)] == [job.id]
    assert rq_queues.waiting_ids("default.normal") == {job.id}


def test_a_job_that_raises_is_tried_again_and_then_failed(submit):
    job = submit("trial_raise")
    execute.run(job.id)
    row = stored(job.id)
    assert (row.status, row.attempt, row.error_type, row.error_message) == ("scheduled", 1, "RuntimeError", "the site answered 503")
    make_due(job.id)
    lifecycle.queue_due(10)
    execute.run(job.id)
    row = stored(job.id)
    assert (row.status, row.attempt, row.error_message) == ("failed", 2, "the site answered 503")
    assert [event.name for event in row.events] == ["submitted", "started", "retrying", "queued", "started", "failed"]


def test_a_job_that_succeeds_the_second_time_keeps_no_error(submit):
    job = submit("trial_second_time")
    execute.run(job.id)
    make_due(job.id)
    lifecycle.queue_due(10)
    execute.run(job.id)
    row = stored(job.id)
    assert (row.status, row.attempt, row.error_type, row.error_message) == ("finished", 2, None, None)


def test_permanent_fails_at_once_with_its_reason(submit):
    job = submit("trial_permanent")
    execute.run(job.id)
    assert (stored(job.id).status, stored(job.id).error_message) == ("failed", "The file is broken. Export it again.")


def test_later_parks_the_job_and_spends_no_attempt(submit):
    job = submit("trial_later")
    execute.run(job.id)
    row = stored(job.id)
    assert (row.status, row.attempt, row.snooze_reason) == ("scheduled", 0, "OpenAI asked for a pause")
    with read_session() as session:
        assert 590 < session.scalar(select(row.run_at - now())) <= 600


@pytest.mark.parametrize(("value", "seconds"), [("inf", MAX_SNOOZE_S), ("1e300", MAX_SNOOZE_S), ("-5", 0)])
def test_a_job_is_parked_for_three_days_at_most(submit, value, seconds):
    job = submit("trial_snooze", {"value": value})
    execute.run(job.id)
    assert (stored(job.id).status, stored(job.id).attempt) == ("scheduled", 0)
    with read_session() as session:
        assert seconds - 10 < session.scalar(select(Job.run_at - now())) <= seconds


def test_a_time_that_is_no_number_fails_the_attempt(submit):
    job = submit("trial_snooze", {"value": "nan"})
    execute.run(job.id)
    assert (stored(job.id).error_type, stored(job.id).attempt) == ("ValueError", 1)
    with pytest.raises(ValueError, match="NaN"):
        Outcome().follow_up("trial_echo", {}, "normal", float("nan"), None)
    with pytest.raises(ValueError, match="backoff"):
        registry.job_type(params=Schema, takes="nothing", backoff=registry.fixed(float("nan")))(execute.run)


@pytest.mark.parametrize("value", ["error", "permanent"])
def test_a_message_of_50_mb_is_cut_before_it_is_logged_and_the_place_is_kept(submit, value):
    job = submit("trial_loud", {"value": value})
    with capture_logs() as logged:
        execute.run(job.id)
    assert max(len(str(entry)) for entry in logged) < 20_000
    row = stored(job.id)
    assert (row.status, row.error_message, "in trial_loud" in row.error_trace) == ("failed", "x" * 2000, True)


def test_a_job_that_is_parked_for_days_fails_in_the_end(submit):
    job = submit("trial_later")
    with write_session() as session:
        session.execute(update(Job).values(created_at=now() - MAX_SNOOZE_S))
    execute.run(job.id)
    assert (stored(job.id).status, stored(job.id).error_type) == ("failed", "parked_too_long")


def test_a_job_past_its_limit_fails_as_timeout_although_it_swallows_exceptions(submit):
    job = submit("trial_slow", {"seconds": 30})
    execute.run(job.id)
    row = stored(job.id)
    assert (row.status, row.error_type) == ("failed", "timeout")
    assert row.error_message == "The job exceeded its time limit of 1 s. Last step: sleeping."


@pytest.mark.parametrize(("value", "reason"), [("set", "JSON"), ("nan", "JSON"), ("big", "1,048,576")])
def test_a_result_that_cannot_be_kept_fails_the_job(submit, value, reason):
    job = submit("trial_bad_result", {"value": value})
    execute.run(job.id)
    row = stored(job.id)
    assert (row.status, row.result) == ("failed", None)
    assert reason in row.error_message


def test_a_follow_up_is_there_with_the_result_and_names_its_parent(submit):
    job = submit("trial_follow")
    execute.run(job.id)
    with read_session() as session:
        follow_up = session.scalar(select(Job).where(Job.parent_id == job.id))
    assert (follow_up.type, follow_up.params, follow_up.status, follow_up.priority) == ("trial_echo", {"value": job.id}, "queued", "high")
    assert follow_up.id in rq_queues.waiting_ids("default.high")


def test_the_outcome_of_a_stale_claim_changes_nothing(submit):
    job = submit("trial_echo")
    stale = lifecycle.claim(job.id, "a worker that froze")
    assert lifecycle.interrupt(job.id, stale.number, "silent")
    fresh = lifecycle.claim(job.id, "another worker")
    assert fresh.attempt == stale.attempt  # the attempt was given back, so it cannot fence: the claim's number does
    assert not lifecycle.succeed(stale, Outcome({"by": "stale"}))
    assert not lifecycle.fail(stale, Failure("stale", "stale"), registry.fixed(1))
    assert not lifecycle.snooze(stale, 10, "stale")
    assert lifecycle.succeed(fresh, Outcome({"by": "fresh"}))
    assert stored(job.id).result == {"by": "fresh"}


def test_a_job_whose_worker_is_silent_is_given_back_and_its_attempt_too(submit):
    job = submit("trial_echo")
    lifecycle.claim(job.id, "a worker that dies")
    clock.repair()
    assert stored(job.id).status == "started"
    with write_session() as session:
        session.execute(update(Job).values(heartbeat_at=now() - 31, run_at=now()))
    clock.repair()
    row = stored(job.id)
    assert (row.status, row.attempt, row.interruptions) == ("queued", 0, 1)


def test_a_job_is_not_given_away_when_its_worker_has_reported_since_it_was_found_lost(submit):
    claim = lifecycle.claim(submit("trial_echo").id, "a worker that was silent")
    with write_session() as session:
        session.execute(update(Job).values(heartbeat_at=now() - 31, run_at=now()))
    assert [one[:3] for one in lifecycle.lost(10)] == [(claim.job_id, claim.number, "a worker that was silent")]
    lifecycle.heartbeat_each([(claim.job_id, claim.number)])
    assert not lifecycle.interrupt(claim.job_id, claim.number, "silent", only_lost=True)
    assert (stored(claim.job_id).status, stored(claim.job_id).run_at) == ("started", None)


def test_a_job_that_took_three_workers_down_is_poison(submit):
    job = submit("trial_echo")
    for _ in range(3):
        assert lifecycle.interrupt(job.id, lifecycle.claim(job.id, "w").number, "killed")
    row = stored(job.id)
    assert (row.status, row.error_type) == ("failed", "poison")


def test_the_clock_pushes_what_redis_lost(submit):
    jobs = [submit("trial_echo") for _ in range(3)]
    with write_session() as session:
        session.execute(update(Job).values(queued_at=now() - 5))
    rq_queues.connection().flushall()
    clock.repair()
    assert rq_queues.waiting_ids("default.normal") == {job.id for job in jobs}


def test_a_submission_with_redis_away_is_accepted_and_pushed_when_it_is_back(submit, intray_settings, redis_url):
    intray_settings(REDIS_URL="redis://127.0.0.1:1/0")
    job = submit("trial_echo")
    assert stored(job.id).status == "queued"
    assert clock.repair() is False
    with write_session() as session:
        session.execute(update(Job).values(queued_at=now() - 5))
    intray_settings(REDIS_URL=redis_url)
    assert clock.repair() is True
    assert rq_queues.waiting_ids("default.normal") == {job.id}


def test_only_one_clock_leads_until_it_resigns(submit):
    assert clock_lease.lead("one")
    assert not clock_lease.lead("two")
    assert clock_lease.lead("one")
    clock_lease.resign("one")
    assert clock_lease.lead("two")
    with read_session() as session:
        assert clock_lease.is_ticking(session)


def test_a_lease_from_before_the_clock_of_the_database_was_set_back_is_over(submit):
    with write_session() as session:
        session.execute(update(Lease).values(holder="a clock that died", expires_at=now() + 3600))
    with read_session() as session:
        assert not clock_lease.is_ticking(session)
    assert clock_lease.lead("another")


@pytest.mark.databases("postgresql")
def test_progress_that_meets_a_lock_on_the_job_is_left_out_and_the_run_goes_on(submit):
    from monolith.runner.worker.context import RunningJob

    claim = lifecycle.claim(submit("trial_echo").id, "w")
    with write_session() as somebody:
        somebody.execute(select(Job.id).where(Job.id == claim.job_id).with_for_update())
        RunningJob(claim).progress(50, "half")
    RunningJob(claim).progress(60, "more")
    assert stored(claim.job_id).progress == 60


def test_a_running_job_that_was_taken_away_ends_without_an_outcome(submit):
    from monolith.runner.worker.context import Overtaken, RunningJob

    job = submit("trial_echo")
    claim = lifecycle.claim(job.id, "slow")
    lifecycle.interrupt(job.id, claim.number, "silent")
    with pytest.raises(Overtaken):
        RunningJob(claim).progress(50, "half")


def rename(job_id: str, name: str) -> None:
    """As a version with this job type has submitted it."""
    with write_session() as session:
        session.execute(update(Job).where(Job.id == job_id).values(type=name))


def an_hour_passes(job_id: str) -> None:
    with write_session() as session:
        session.execute(update(JobEvent).where(JobEvent.job_id == job_id).values(at=JobEvent.at - lifecycle.MISSING_TYPE_S))


def test_a_job_of_an_unknown_type_waits_an_hour_for_a_worker_that_has_it(submit):
    job = submit("trial_echo", {"value": 7})
    rename(job.id, "newer")
    for _ in range(2):
        row = run_due(job.id)
        assert (row.status, row.attempt, row.error_type) == ("scheduled", 0, None)
    clock_lease.lead("tests")
    with read_session() as session:
        said = waiting_reason.waiting_reason(session, row)
        assert row.run_at - read_now(session) <= lifecycle.MISSING_TYPE_TRY_S
    assert said and "Waits for a worker that has the job type newer, of a newer version. If none comes until " in said
    an_hour_passes(job.id)
    row = run_due(job.id)
    assert (row.status, row.error_type) == ("failed", "unknown_type")
    assert "No worker with the job type newer came within an hour. Start a worker of a version that has it" in row.error_message
    assert lifecycle.requeue(job.id)
    assert run_due(job.id).status == "scheduled", "a person's requeue gives it another hour"
    rename(job.id, "trial_echo")
    with write_session() as session:
        session.execute(update(Job).values(snooze_reason=func.replace(Job.snooze_reason, "newer", "trial_echo"), run_at=now() + 300))
    lifecycle.try_with_types(["trial_raise", "trial_echo"])  # as a worker does when it starts
    assert [one.id for one in lifecycle.queue_due(10)] == [job.id]
    row = run_due(job.id)
    assert (row.status, row.attempt, row.result) == ("finished", 1, {"value": 7})


def test_a_job_whose_follow_up_has_an_unknown_type_waits_too_and_what_is_no_type_fails_at_once(submit):
    job, wrong = submit("trial_follow", {"type": "newer"}), submit("trial_follow", {"type": "No type"})
    row = run_due(job.id)
    assert (row.status, row.attempt) == ("scheduled", 0) and "the job type newer" in row.snooze_reason
    assert run_due(wrong.id).status == "failed"
    an_hour_passes(job.id)
    assert (run_due(job.id).status, stored(job.id).error_type) == ("failed", "unknown_type")


def test_a_version_that_lacks_the_type_fails_no_job_as_poison(submit):
    job = submit("trial_echo")
    for name, status in (("newer", "queued"), ("newer", "queued"), ("newer", "queued"), ("trial_echo", "failed")):
        claim = lifecycle.claim(job.id, "w")
        rename(job.id, name)
        assert claim and lifecycle.interrupt(job.id, claim.number, "out of memory")
        assert stored(job.id).status == status


def test_a_queued_job_gets_the_defaults_of_params_that_its_type_has_had_since(submit):
    job = submit("trial_echo", {"value": 7})
    with write_session() as session:
        session.execute(update(Job).values(params={"removed": 1}))
    row = run_due(job.id)
    assert (row.status, row.result) == ("finished", {"value": None})


def test_a_job_that_waits_is_cancelled_and_one_that_runs_is_not(submit):
    waiting, later, running_one = submit("trial_echo"), submit("trial_echo", delay=60), submit("trial_echo")
    lifecycle.claim(running_one.id, "w")
    assert [lifecycle.cancel(job.id) for job in (waiting, later, running_one)] == [True, True, False]
    assert [stored(job.id).status for job in (waiting, later, running_one)] == ["canceled", "canceled", "started"]
    execute.run(waiting.id)  # its message comes all the same
    assert stored(waiting.id).status == "canceled"


def test_the_outcome_of_a_stopped_job_changes_nothing(submit):
    job = submit("trial_echo")
    claim = lifecycle.claim(job.id, "w")
    assert lifecycle.stop(job.id)
    assert not lifecycle.succeed(claim, Outcome({}))
    assert (stored(job.id).status, stored(job.id).result) == ("stopped", None)
    assert not lifecycle.stop(job.id)


def test_a_requeued_job_starts_afresh_with_all_its_attempts(submit):
    job = submit("trial_permanent")
    execute.run(job.id)
    assert lifecycle.requeue(job.id)
    row = stored(job.id)
    assert (row.status, row.attempt, row.error_type, row.ended_at) == ("queued", 0, None, None)
    assert rq_queues.waiting_ids("default.normal") >= {job.id}
    assert not lifecycle.requeue(job.id)


def test_statements_with_the_databases_clock_are_compiled_once():
    assert select(now())._generate_cache_key() is not None
