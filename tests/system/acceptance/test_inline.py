"""Jobs in the web process, with no Redis at all."""

from __future__ import annotations

import signal
from collections.abc import Callable

import requests

from tests.support.processes import VENV_ONLY, Intray, until


def test_everything_runs_in_one_process_without_redis_and_a_restart_loses_nothing(new_intray: Callable[..., Intray]) -> None:
    one = new_intray(QUEUE_MODE="inline", PATH=VENV_ONLY, JOB_PACKAGES="jobs,tests.trial_jobs", SHUTDOWN_GRACE="1").start()
    assert not any("valkey" in line or "manage.py worker" in line or "manage.py clock" in line for line in one.processes().values())
    headers = {"Authorization": f"Bearer {one.token()}"}

    def submit(name: str, **params: object) -> Callable[[], dict]:
        body = {"type": name, "params": params}
        job = requests.post(f"{one.base_url}/api/v1/jobs", json=body, headers=headers, timeout=10).json()
        return lambda: requests.get(f"{one.base_url}{job['links']['self']}", headers=headers, timeout=10).json()

    quick, again, slow = submit("trial_echo", value=1), submit("trial_second_time"), submit("trial_slow", seconds=30)
    until(lambda: quick()["status"] == again()["status"] == "finished", 20, lambda: f"{quick()} {again()}")
    until(lambda: slow()["status"] == "failed", 20, lambda: str(slow()))
    assert slow()["error"]["type"] == "timeout"
    assert one.manage("doctor").returncode == 0
    long = submit("trial_sleep", seconds=8)
    until(lambda: long()["status"] == "started", 20, lambda: str(long()))
    assert one.stop(signal.SIGTERM) == 0
    one.start()
    until(lambda: long()["status"] == "finished", 40, lambda: f"{long()}\n{one.output()[-2000:]}")
    assert long()["attempt"] == 1
