"""The worker under signals, crashes and limits: real processes, real faults."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from rq.command import send_stop_job_command

from tests.support.processes import Intray, until

TRIALS = {"JOB_PACKAGES": "jobs,tests.trial_jobs"}


@dataclass
class Yard:
    """An installation whose worker processes a test starts and ends by hand; web and clock run, for all tests."""

    intray: Intray
    token: str
    redis_url: str

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = requests.request(method, f"{self.intray.base_url}{path}", headers=headers, timeout=40, **options)
        assert answer.status_code < 300, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def submit(self, name: str, **params: Any) -> str:
        return str(self.call("post", "/api/v1/jobs", json={"type": name, "params": params})["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return self.call("get", f"/api/v1/jobs/{job_id}")

    def wait_for(self, job_id: str, *statuses: str, within: float = 20) -> dict[str, Any]:
        until(lambda: self.job(job_id)["status"] in statuses, within, lambda: f"{self.job(job_id)}\n{self.intray.output()[-3000:]}")
        return self.job(job_id)

    def working(self, job_id: str) -> None:
        """Wait until the job's function runs: it has said its first step."""
        until(lambda: self.job(job_id)["progress_note"] is not None, 20, lambda: f"{self.job(job_id)}\n{self.intray.output()[-3000:]}")


@pytest.fixture(scope="module")
def whole_yard(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[Yard]:
    with Intray(tmp_path_factory.mktemp("yard") / "home", {"REDIS_URL": redis_server, "SHUTDOWN_GRACE": "1", **TRIALS}) as one:
        one.checked("db", "upgrade")
        token = one.token(one.user("a@example.org"))
        one.spawn("web")
        one.spawn("clock")
        one.wait_until(one.is_ready)
        yield Yard(one, token, redis_server)


@pytest.fixture
def yard(whole_yard: Yard) -> Iterator[Yard]:
    yield whole_yard
    whole_yard.intray.end_all("worker")
    redis.Redis.from_url(whole_yard.redis_url).flushall()


def test_a_worker_that_is_told_to_stop_gives_its_job_back_and_spends_no_attempt(yard: Yard) -> None:
    worker = yard.intray.spawn("worker")
    job = yard.submit("trial_sleep", seconds=3)
    yard.working(job)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    given_back = yard.job(job)
    assert (given_back["status"], given_back["attempt"], given_back["interruptions"]) == ("queued", 0, 1)
    yard.intray.spawn("worker")
    done = yard.wait_for(job, "finished")
    assert done["attempt"] == 1


def test_a_job_that_ends_within_the_grace_is_finished(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(yard.intray.settings, "SHUTDOWN_GRACE", "15")
    worker = yard.intray.spawn("worker")
    job = yard.submit("trial_sleep", seconds=2)
    yard.working(job)
    for pid in yard.intray.processes():
        if pid == worker.pid or _parent(pid) == worker.pid:  # a host signals the child too
            os.kill(pid, signal.SIGTERM)
    assert worker.wait(20) == 0
    assert (yard.job(job)["status"], yard.job(job)["interruptions"]) == ("finished", 0)


def test_an_old_worker_leaves_a_job_of_a_new_type_to_a_new_worker(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(yard.intray.settings, "JOB_PACKAGES", "jobs")  # the version before the trial jobs
        old = yard.intray.spawn("worker")
    job = yard.submit("trial_echo", value=7)
    waiting = yard.wait_for(job, "scheduled", "failed")
    assert (waiting["status"], waiting["attempt"]) == ("scheduled", 0)
    assert "the job type trial_echo, of a newer version" in waiting["waiting_reason"]
    old.send_signal(signal.SIGTERM)
    assert old.wait(20) == 0
    yard.intray.spawn("worker")
    done = yard.wait_for(job, "finished", "failed")
    assert (done["status"], done["attempt"], done["result"]) == ("finished", 1, {"value": 7})


def test_two_signals_at_once_end_an_idle_worker(yard: Yard) -> None:
    workers = [yard.intray.spawn("worker") for _ in range(3)]
    connection = redis.Redis.from_url(yard.redis_url)
    until(lambda: [connection.hget(key, "state") for key in connection.smembers("rq:workers")] == [b"idle"] * 3)
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
        worker.send_signal(signal.SIGINT)
    assert [worker.wait(20) for worker in workers] == [0, 0, 0]


@pytest.mark.parametrize("name", ["trial_c_loop", "trial_grandchild"])
def test_a_job_past_its_limit_ends_with_all_it_started(yard: Yard, name: str) -> None:
    mark = uuid.uuid4().hex
    yard.intray.spawn("worker")
    job = yard.submit(name, **({"value": mark} if name == "trial_grandchild" else {}))
    failed = yard.wait_for(job, "failed")
    assert failed["error"]["type"] == "timeout"
    until(lambda: not _running(mark), 10)
    after = yard.submit("trial_echo", value=1)
    assert yard.wait_for(after, "finished")["result"] == {"value": 1}


def test_a_job_that_crashes_its_process_each_time_is_poison_and_its_neighbours_are_unharmed(yard: Yard) -> None:
    yard.intray.spawn("worker")
    before, crash, after = yard.submit("trial_echo", value=1), yard.submit("trial_crash"), yard.submit("trial_echo", value=2)
    poison = yard.wait_for(crash, "failed", within=40)
    assert (poison["error"]["type"], poison["interruptions"]) == ("poison", 2)
    assert "SIGKILL" in poison["error"]["message"]
    assert [yard.wait_for(job, "finished")["attempt"] for job in (before, after)] == [1, 1]


def test_a_job_whose_worker_is_killed_runs_again_and_spends_no_attempt(yard: Yard) -> None:
    worker = yard.intray.spawn("worker")
    job = yard.submit("trial_sleep", seconds=2)
    yard.working(job)
    worker.kill()
    worker.wait()
    yard.intray.spawn("worker")
    done = yard.wait_for(job, "finished", within=50)
    assert (done["attempt"], done["interruptions"]) == (1, 1)


def test_a_job_that_is_stopped_and_requeued_at_once_runs_again(yard: Yard) -> None:
    """The end of the old run is told with its claim number: it says nothing about the new run."""
    yard.intray.spawn("worker")
    for _ in range(6):
        job = yard.submit("trial_sleep", seconds=1.5)
        yard.working(job)
        yard.call("post", f"/api/v1/jobs/{job}/stop")
        yard.call("post", f"/api/v1/jobs/{job}/requeue")
        assert yard.wait_for(job, "finished", "stopped", "failed")["status"] == "finished"


def test_an_on_failure_that_takes_long_is_ended_and_delays_no_other_job(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(yard.intray.settings, "WORKER_CONCURRENCY", "1")
    yard.intray.spawn("worker")
    body = {"text": "Boats.", "jobs": [{"type": "trial_unruly", "params": {"value": "long"}}]}
    unruly = yard.call("post", "/api/v1/documents", json=body)["jobs"][0]["id"]
    until(lambda: yard.job(unruly)["status"] == "started", 20)
    assert yard.wait_for(yard.submit("trial_echo", value=1), "finished")["result"] == {"value": 1}
    assert yard.job(unruly)["status"] == "started"
    assert yard.wait_for(unruly, "failed")["error"]["type"] == "permanent"


def test_a_job_that_leaves_by_sys_exit_has_failed_at_once_with_that_reason(yard: Yard) -> None:
    yard.intray.spawn("worker")
    job = yard.wait_for(yard.submit("trial_exit"), "failed")
    assert (job["error"], job["attempt"], job["interruptions"]) == ({"type": "SystemExit", "message": "3"}, 1, 0)


@pytest.mark.parametrize("how", ["api", "rq"])
def test_a_running_job_is_stopped_and_its_worker_goes_on(yard: Yard, how: str) -> None:
    yard.intray.spawn("worker")
    job = yard.submit("trial_sleep", seconds=50)
    yard.working(job)
    if how == "api":
        assert yard.call("post", f"/api/v1/jobs/{job}/stop")["status"] == "stopped"
    else:
        send_stop_job_command(redis.Redis.from_url(yard.redis_url), job)
    assert yard.wait_for(job, "stopped")["error"] is None
    after = yard.submit("trial_echo", value=1)
    assert yard.wait_for(after, "finished", within=15)


def test_a_worker_taken_by_surprise_by_redis_going_away_loses_nothing(yard: Yard) -> None:
    yard.intray.spawn("worker")
    job = yard.submit("trial_sleep", seconds=2)
    yard.working(job)
    redis.Redis.from_url(yard.redis_url).flushall()
    waiting = yard.submit("trial_echo", value=1)
    redis.Redis.from_url(yard.redis_url).flushall()
    assert yard.wait_for(job, "finished")["attempt"] == 1
    assert yard.wait_for(waiting, "finished", within=30)["attempt"] == 1
    until(lambda: redis.Redis.from_url(yard.redis_url).scard("rq:workers") == 1, 30)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _running(mark: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                return True
        except OSError:
            continue
    return False
