"""Intray's worker for tests that speak with it through a folder, `CHAOS_POINTS`: one that waits where it is told to, and a cramped one.

A test makes a file with the name of a point. Who comes there first renames it to `reached` and waits until that is gone: meanwhile
the test does to the process what it likes. `full` appears when the parent cannot send its hook process what it has for it, and
`loop` disappears when it has looked at all that has arrived.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from monolith.runner.prefork import hooks, worker
from monolith.runner.worker.ledger_worker import LedgerHooks, LedgerWorker

CLAIMED, RUN, REPORTED, RECORDED = POINTS = (
    "claimed, not handed over",
    "run, not reported",
    "reported, not recorded",
    "recorded, not acknowledged",
)
REACHED, FULL, LOOP = "reached", "full", "loop"
SOON_S = 2.0  # instead of ten seconds
FEW = 8  # instead of a thousand


def wait_at(point: str) -> None:
    """Wait if the test has named this point."""
    folder = Path(os.environ["CHAOS_POINTS"])
    with suppress(FileNotFoundError):
        (folder / point).rename(folder / REACHED)
        while (folder / REACHED).exists():
            time.sleep(0.01)


class _Worker(LedgerWorker):
    """Says when the socket to its hook process is full, and when its loop has come round."""

    _is_full = False

    def _wait(self) -> None:
        folder = Path(os.environ["CHAOS_POINTS"])
        assert self._hook_process
        if self._hook_process.has_unsent and not self._is_full:
            (folder / FULL).touch()
        self._is_full = self._hook_process.has_unsent
        (folder / LOOP).unlink(missing_ok=True)
        super()._wait()


class CrampedWorker(_Worker):
    """The sockets between the parent and the hook process hold a few messages."""

    def _wait(self) -> None:
        assert self._hook_process
        for end in (self._hook_process._socket, self._hook_process._hooks_socket):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the system makes the least possible of it
        super()._wait()


class WaitingWorker(_Worker):
    """Waits at each of the `POINTS`. A frozen hook process is replaced sooner, and less may wait for it."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.hooks = WaitingHooks(self.name)
        hooks.FROZEN_S, worker.MAX_UNRECORDED = SOON_S, FEW


class WaitingHooks(LedgerHooks):
    """The hooks of a `WaitingWorker`."""

    def claim(self, job_ids: list[str]) -> list[tuple[int, bytes] | str | None]:
        answers = super().claim(job_ids)
        wait_at(CLAIMED)
        return answers

    def run(self, job_id: str, number: int, claimed: bytes) -> bytes:
        ending = super().run(job_id, number, claimed)
        wait_at(RUN)
        return ending

    def record(self, endings: list[tuple[str, int, bytes]]) -> list[str | None]:
        wait_at(REPORTED)
        answers = super().record(endings)
        wait_at(RECORDED)
        return answers
