"""The hook process answers what it was asked, in batches; what it has not answered when it dies is asked again."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import termios
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monolith.runner.prefork import hooks as hook_module
from monolith.runner.prefork.hooks import LATER, HookProcess
from monolith.runner.prefork.task import Task
from tests.support.processes import until

FULL = b"x" * 1_000_000  # more than a socket holds


class RecordingHooks:
    """Write each call to a file. While the folder has a file `away`, the database is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        pass

    def prepare_hook_process(self) -> None:
        self._write("prepare")

    def kept(self) -> list[tuple[str, int]]:
        return []

    def claim(self, job_ids: list[str]) -> list[Any]:
        return self._call("claim", job_ids, [(1, FULL if one == "large" else one.encode()) if one != "paused" else None for one in job_ids])

    def claim_again(self, jobs: list[tuple[str, list[int]]]) -> list[Any]:
        return self._call("claim_again", [f"{job_id}{numbers}" for job_id, numbers in jobs], [(2, job_id.encode()) for job_id, _ in jobs])

    def record(self, endings: list[tuple[str, int, bytes]]) -> list[Any]:
        return self._call("record", [job_id for job_id, *_ in endings], [None for _ in endings])

    def heartbeat(self, claims: list[tuple[str, int]]) -> list[bool | str]:
        is_locked = (self.folder / "locked").exists()
        return [LATER if is_locked and job_id == "locked" else job_id != "taken" for job_id, _ in claims]

    def interrupted(self, claims: list[tuple[str, int]]) -> list[Any]:
        raise ValueError("on purpose")

    def _call(self, name: str, job_ids: list[str], answers: list[Any]) -> list[Any]:
        if (self.folder / "away").exists():
            return [LATER for _ in job_ids]
        self._write(f"{name} {' '.join(job_ids)}")
        return answers

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def _write(self, line: str) -> None:
        with (self.folder / "calls").open("a") as file:
            file.write(f"{line}\n")


class Asked:
    """A hook process and its answers so far, each as name, job and value."""

    def __init__(self, hooks: RecordingHooks) -> None:
        self.claimed: list[Task] = []
        worker = SimpleNamespace(name="w1", log=logging.getLogger("w1"))
        self.process = HookProcess(hooks, worker, lambda: None, lambda: self.claimed)  # type: ignore[arg-type]
        self.answers: list[tuple[str, str, Any]] = []

    def ask(self, name: str, job_id: str, *rest: Any) -> None:
        self.process.ask(name, _task(job_id), (job_id, *rest) if rest else job_id)

    def wait(self, number: int) -> list[tuple[str, str, Any]]:
        """The answers, once there are so many."""
        until(lambda: len(self._exchange()) >= number, 10, lambda: str(self.answers))
        return self.answers

    def _exchange(self) -> list[tuple[str, str, Any]]:
        self.answers += [(one.name, one.task.job_id, one.value) for one in self.process.exchange()]
        return self.answers


def _task(job_id: str, claim_number: int = 0) -> Task:
    queue = SimpleNamespace(DEFAULT_TIMEOUT=1)
    return Task(job_id, "e", queue, {}, datetime.now(UTC), False, False, claim_number=claim_number)  # type: ignore[arg-type]


def _unread(process: HookProcess) -> int:
    """How many bytes of its answers have arrived and were not read."""
    return int.from_bytes(fcntl.ioctl(process.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.fixture
def hooks(tmp_path: Path) -> RecordingHooks:
    return RecordingHooks(tmp_path)


@pytest.fixture
def asked(hooks: RecordingHooks) -> Iterator[Asked]:
    one = Asked(hooks)
    yield one
    one.process.leave()
    one.process.close()


def test_what_was_asked_at_once_is_one_call_and_claims_come_first(asked: Asked, hooks: RecordingHooks) -> None:
    asked.ask("record", "a", 1, b"")
    for job_id in ("b", "paused", "c"):
        asked.ask("claim", job_id)
    answers = [("claim", "b", (1, b"b")), ("claim", "paused", None), ("claim", "c", (1, b"c")), ("record", "a", None)]
    assert asked.wait(4) == answers
    assert hooks.calls() == ["prepare", "claim b paused c", "record a"]
    assert asked.process.is_idle


def test_a_hook_that_fails_stops_nothing(asked: Asked) -> None:
    asked.ask("interrupted", "a", 1)
    asked.ask("claim", "b")
    assert asked.wait(2) == [("claim", "b", (1, b"b")), ("interrupted", "a", None)]


def test_a_heartbeat_says_of_each_job_whether_it_is_still_ours(asked: Asked) -> None:
    for job_id in ("ours", "taken"):
        asked.ask("heartbeat", job_id, 1)
    assert asked.wait(2) == [("heartbeat", "ours", True), ("heartbeat", "taken", False)]


def test_a_heartbeat_that_is_not_taken_is_known_and_does_not_hold_up_the_others(
    asked: Asked, hooks: RecordingHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monolith.runner.prefork.hooks.HEARTBEAT_S", 0)
    monkeypatch.setattr("monolith.runner.prefork.hooks.UNCONFIRMED_S", 0)
    (hooks.folder / "locked").touch()
    asked.claimed = [_task("locked", 1), _task("ours", 1)]
    for number in (1, 2):
        asked.process.ask_heartbeats()
        assert asked.wait(number) == [("heartbeat", "ours", True)] * number
        assert [task.job_id for task in asked.process.unconfirmed] == ["locked"]
        assert asked.process.is_idle
    (hooks.folder / "locked").unlink()
    assert asked.wait(3)[2] == ("heartbeat", "locked", True)
    assert asked.process.unconfirmed == []


def test_what_a_database_that_is_away_holds_up_is_done_when_it_is_back(asked: Asked, hooks: RecordingHooks) -> None:
    (hooks.folder / "away").touch()
    asked.ask("record", "a", 1, b"")
    asked.ask("heartbeat", "b", 1)
    assert asked.wait(1) == [("heartbeat", "b", True)]
    (hooks.folder / "away").unlink()
    assert asked.wait(2)[1] == ("record", "a", None)


def test_a_hook_process_that_dies_is_replaced_and_asked_again(asked: Asked, hooks: RecordingHooks) -> None:
    until(lambda: hooks.calls() == ["prepare"], 10)
    os.kill(asked.process.pid, signal.SIGSTOP)
    asked.claimed = [_task("a", 7), _task("b", 1)]
    asked.ask("claim", "a")
    asked.ask("record", "b", 1, FULL)
    asked.ask("record", "c", 1, FULL)
    assert list(asked.process.exchange()) == []
    assert asked.process.has_unsent  # its socket is full
    os.kill(asked.process.pid, signal.SIGKILL)
    assert sorted(asked.wait(3)) == [("claim", "a", (2, b"a")), ("record", "b", None), ("record", "c", None)]
    assert sorted(hooks.calls()) == ["claim_again a[7]", *["prepare"] * 2, "record b c"]


def test_a_frozen_hook_process_has_its_time_even_if_it_was_idle_for_longer(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_module, "FROZEN_S", 2.0)
    began_at = time.monotonic()
    os.kill(asked.process.pid, signal.SIGSTOP)
    until(lambda: time.monotonic() > began_at + 2, 10)
    asked.ask("claim", "a")
    assert list(asked.process.exchange()) == []
    os.kill(asked.process.pid, signal.SIGCONT)
    assert asked.wait(1) == [("claim", "a", (1, b"a"))]  # its own answer, not that of another


def test_of_an_answer_that_a_hook_process_dies_over_nothing_is_left(asked: Asked) -> None:
    asked.ask("claim", "large")
    assert list(asked.process.exchange()) == []
    until(lambda: _unread(asked.process) > len(FULL) / 10, 10)
    os.kill(asked.process.pid, signal.SIGSTOP)
    assert list(asked.process.exchange()) == []  # it has read a part
    os.kill(asked.process.pid, signal.SIGKILL)
    assert asked.wait(1) == [("claim", "large", (2, b"large"))]


def test_what_was_asked_is_done_before_the_process_leaves(asked: Asked, hooks: RecordingHooks) -> None:
    for number in range(100):
        asked.ask("record", str(number), 1, b"")
    asked.process.leave()
    assert hooks.calls() == ["prepare", f"record {' '.join(map(str, range(100)))}"]


def test_a_full_socket_is_emptied_as_it_is_read(asked: Asked) -> None:
    for number in range(20):
        asked.ask("record", str(number), 1, FULL)
    assert {job_id for _, job_id, _ in asked.wait(20)} == {str(number) for number in range(20)}
