"""What happens to a worker while it works: commands, suspension, being watched. Each function returns what it saw."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rq import Callback, Retry, Worker
from rq.command import send_kill_horse_command, send_shutdown_command, send_stop_execution_command, send_stop_job_command

from tests.support.processes import until
from tests.support.worker import jobs_for_workers as jobs
from tests.support.worker.scenarios import JOBS, Scenario
from tests.support.worker.snapshot import alike, snapshot
from tests.support.worker.trial import Trial

ALL: list[Scenario] = []


def driven(run: Callable[[Trial], Any]) -> Callable[[Trial], Any]:
    ALL.append(Scenario(run.__name__, run))
    return run


@driven
def stopped_job(trial: Trial) -> Any:
    return _stop(trial, trial.push(jobs.sleep_loop, retry=Retry(max=2)))


@driven
def stopped_job_with_callback_and_dependent(trial: Trial) -> Any:
    job = trial.push(jobs.sleep_loop, on_stopped=Callback(jobs.on_stopped), on_failure=Callback(jobs.on_failure))
    trial.push(jobs.add, 1, depends_on=job)
    return _stop(trial, job)


@driven
def stopped_job_whose_callback_raises(trial: Trial) -> Any:
    return _stop(trial, trial.push(jobs.sleep_loop, on_stopped=Callback(jobs.on_any_raise)))


def _stop(trial: Trial, job: str) -> Any:
    """Stop it; the worker goes on with the next one."""
    worker = trial.start()
    trial.begun(job)
    send_stop_job_command(trial.connection, job)
    trial.wait_for("stopped", job)
    trial.wait_for("finished", trial.push(jobs.add, 1))
    return _quit(trial, worker)


@driven
def stopped_execution(trial: Trial) -> Any:
    job = trial.push(jobs.sleep_loop)
    worker = trial.start()
    trial.begun(job)
    (execution,) = trial.job(job).get_executions()
    send_stop_execution_command(trial.connection, job, execution.id)
    trial.wait_for("stopped", job)
    return _quit(trial, worker)


@driven
def stop_command_for_another_job(trial: Trial) -> Any:
    job = trial.push(jobs.wait_for)
    worker = trial.start()
    trial.begun(job)
    other = trial.push(jobs.add, 1, on="unheard")
    trial.connection.hset(f"rq:job:{other}", "worker_name", "w1")
    send_stop_job_command(trial.connection, other)
    return _release(trial, worker, job)


@driven
def killed_horse(trial: Trial) -> Any:
    job = trial.push(jobs.sleep_loop)
    worker = trial.start()
    trial.begun(job)
    send_kill_horse_command(trial.connection, "w1")
    trial.wait_for("failed", job)
    return _quit(trial, worker)


@driven
def busy(trial: Trial) -> Any:
    """All that a monitor sees of an idle worker and of a busy one."""
    worker = trial.start()
    while_idle = _seen(trial)
    job = trial.push(jobs.wait_for)
    trial.begun(job)
    trial.until_state("busy")
    return while_idle, _seen(trial), _release(trial, worker, job)


def _seen(trial: Trial) -> Any:
    workers = [
        (one.name, one.get_state(), one.get_current_job_id(), one.queue_names(), one.current_execution_count)
        for one in Worker.all(connection=trial.connection)
    ]
    printed = [re.sub(r" \d+\)", " <pid>)", alike(trial.rq("info", *options))) for options in (("-W", "--raw"), ("-W",), ("-R",))]
    return workers, printed, snapshot(trial.connection)


@driven
def dependent_added_while_its_job_runs(trial: Trial) -> Any:
    job = trial.push(jobs.wait_for)
    worker = trial.start()
    trial.begun(job)
    dependent = trial.push(jobs.add, 1, depends_on=job)
    trial.open()
    trial.wait_for("finished", job, dependent)
    return _quit(trial, worker)


@driven
def job_canceled_while_it_runs(trial: Trial) -> Any:
    job = trial.push(jobs.wait_for)
    worker = trial.start()
    trial.begun(job)
    trial.job(job).cancel()
    trial.open()
    trial.wait_for("finished", trial.push(jobs.add, 1))
    return _quit(trial, worker)


@driven
def suspended_and_resumed(trial: Trial) -> Any:
    """While it is busy: an idle stock worker notices nothing until it has taken one more job."""
    job = trial.push(jobs.wait_for)
    worker = trial.start()
    trial.begun(job)
    trial.rq("suspend")
    trial.open()
    trial.wait_for("finished", job)
    trial.until_state("suspended")
    waiting = trial.push(jobs.add, 1)
    while_suspended = snapshot(trial.connection)
    trial.rq("resume")
    trial.wait_for("finished", waiting)
    return while_suspended, _quit(trial, worker)


@driven
def shut_down_while_idle(trial: Trial) -> Any:
    worker = trial.start()
    send_shutdown_command(trial.connection, "w1")
    return worker.wait(20)


@driven
def shut_down_while_busy(trial: Trial) -> Any:
    """The job that runs ends, what waits is left."""
    job = trial.push(jobs.wait_for)
    worker = trial.start()
    trial.begun(job)
    send_shutdown_command(trial.connection, "w1")
    until(lambda: trial.connection.hexists("rq:worker:w1", "shutdown_requested_date"))
    left = trial.push(jobs.add, 1)
    trial.open()
    return worker.wait(20), trial.status(left)


@driven
def terminated_while_busy(trial: Trial) -> Any:
    job = trial.push(jobs.wait_for)
    worker = trial.start()
    trial.begun(job)
    worker.send_signal(signal.SIGTERM)
    until(lambda: trial.connection.hexists("rq:worker:w1", "shutdown_requested_date"))
    trial.open()
    return worker.wait(20)


@driven
def max_idle_time(trial: Trial) -> Any:
    return trial.start("--max-idle-time", "1", listens=False).wait(20)


@driven
def scheduled_jobs_are_moved_by_the_scheduler(trial: Trial) -> Any:
    trial.queue().enqueue_at(datetime(2020, 1, 1, tzinfo=UTC), jobs.add, 1, job_id="due")
    trial.burst("--with-scheduler")


@driven
def another_key_prefix(trial: Trial) -> Any:
    """Pushed by `rq enqueue`: the prefix is read when rq is imported."""
    trial.settings["RQ_KEY_PREFIX"] = "mine"
    trial.rq("enqueue", "--job-id", "one", f"{JOBS}.note", "hello")
    trial.rq("enqueue", "--job-id", "two", "--retry-max", "1", f"{JOBS}.fail")
    trial.burst()


@driven
def a_name_that_is_taken(trial: Trial) -> Any:
    trial.start()
    code = trial.start("--name", "w1", listens=False).wait(20)
    return code, _quit(trial, trial.workers[0])


def _release(trial: Trial, worker: Any, job: str) -> int:
    trial.open()
    trial.wait_for("finished", job)
    return _quit(trial, worker)


def _quit(trial: Trial, worker: Any) -> int:
    """End it when it is idle again."""
    trial.until_state("idle")
    return trial.stop(worker)
