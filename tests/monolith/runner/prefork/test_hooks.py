"""The hook process calls the hooks in order, answers heartbeats, and is replaced when it dies."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from monolith.runner.prefork.hooks import HookProcess
from tests.support.processes import until


class RecordingHooks:
    """Write each call to a file. Of the running jobs, all but "taken" are still ours."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def why_refused(self, job_id: str, fields: dict[bytes, bytes]) -> str:
        return ""

    def prepare(self) -> None:
        self._write("prepare")

    def heartbeat(self, job_ids: list[str]) -> list[str]:
        return [one for one in job_ids if one != "taken"]

    def lost(self, job_id: str, why: str) -> None:
        self._write(f"lost {job_id}: {why}")

    def interrupted(self, job_ids: list[str]) -> None:
        raise ValueError("on purpose")

    def stopped(self, job_id: str) -> None:
        self._write(f"stopped {job_id}")

    def calls(self) -> list[str]:
        return self._file.read_text().splitlines() if self._file.exists() else []

    def _write(self, line: str) -> None:
        with self._file.open("a") as file:
            file.write(f"{line}\n")


@pytest.fixture
def hooks(tmp_path: Path) -> RecordingHooks:
    return RecordingHooks(tmp_path / "calls")


@pytest.fixture
def process(hooks: RecordingHooks) -> Iterator[HookProcess]:
    one = HookProcess(hooks, SimpleNamespace(name="w1", log=logging.getLogger("w1")), lambda: None)
    yield one
    one.leave()
    one.close()


def test_hooks_are_called_in_order_and_one_that_fails_stops_nothing(process: HookProcess, hooks: RecordingHooks) -> None:
    process.call("lost", "a", "timeout")
    process.call("interrupted", ["b"])
    process.call("stopped", "c")
    until(lambda: hooks.calls() == ["prepare", "lost a: timeout", "stopped c"], 10)


def test_a_heartbeat_returns_the_jobs_that_are_still_ours(process: HookProcess) -> None:
    until(lambda: process.exchange_heartbeats(lambda: ["ours", "taken"]) == {"ours"}, 10)


def test_a_hook_process_that_dies_is_replaced(process: HookProcess, hooks: RecordingHooks) -> None:
    until(lambda: hooks.calls() == ["prepare"], 10)
    first = process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: process.exchange_heartbeats(list) is None and process.pid != first, 10)
    process.call("stopped", "a")
    until(lambda: hooks.calls() == ["prepare", "prepare", "stopped a"], 10)


def test_calls_are_made_before_the_process_leaves(hooks: RecordingHooks, process: HookProcess) -> None:
    for number in range(100):
        process.call("stopped", str(number))
    process.leave()
    assert hooks.calls() == ["prepare", *(f"stopped {number}" for number in range(100))]
