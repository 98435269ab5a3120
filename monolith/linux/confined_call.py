"""A call of a function in a forked process, with a time limit. Whatever the function does there, the caller goes on."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from monolith.linux.processes import describe_status, dying_with, end_children, inherit_orphans

CHUNK = 64 * 1024
LAST = b"\n\0"  # what a complete result ends with; it is in no JSON


class ConfinedCall:
    """The call of `function`, which returns bytes, in a process of its own. It is started at once, and never waited for unasked.

    After the end, `result` is what it returned; where that is None, `problem` says why. The process is killed at the limit, with
    all processes that it has started.
    """

    def __init__(self, function: Callable[[], bytes], limit_s: float) -> None:
        self.result: bytes | None = None
        self.problem = ""
        self.ends_at = time.monotonic() + limit_s
        self._received = bytearray()
        self._pipe, childs_end = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _run(function, childs_end, parent)
        os.close(childs_end)
        os.set_blocking(self._pipe, False)
        with suppress(OSError):  # the process does this itself too, and may have been faster
            os.setpgid(self._pid, self._pid)

    def wait(self, seconds: float) -> bool:
        """Wait so long for the end, or until the limit. Whether it has ended."""
        until = min(time.monotonic() + seconds, self.ends_at)
        while self._pid and not self._has_closed_pipe(max(0.0, until - time.monotonic())) and time.monotonic() < until:
            pass
        if self._pid and time.monotonic() >= self.ends_at:
            self._end("it took too long")
        return not self._pid

    def _has_closed_pipe(self, seconds: float) -> bool:
        """Read what arrives within this time. At the end of the pipe, the call has ended."""
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        with suppress(BlockingIOError):
            while received := os.read(self._pipe, CHUNK):
                self._received += received
            self._end("")
            return True
        if self._received.endswith(LAST):  # another process, forked at the same moment, may hold the pipe open
            self._end("")
            return True
        return False

    def _end(self, problem: str) -> None:
        """Kill what is left, and keep the result if all of it has arrived: its last byte says so."""
        with suppress(OSError):
            os.killpg(self._pid, signal.SIGKILL)
        status = 0
        with suppress(ChildProcessError):  # somebody else has reaped it
            status = os.waitpid(self._pid, 0)[1]
        os.close(self._pipe)
        self._pid = 0
        if self._received.endswith(LAST) and not problem:
            self.result = bytes(self._received[: -len(LAST)])
        else:
            self.problem = problem or f"its process ended: {describe_status(status)}"

    def kill(self) -> None:
        """End it now."""
        if self._pid:
            self._end("it was killed")


def _run(function: Callable[[], bytes], pipe: int, parent: int) -> NoReturn:
    """What the forked process does."""
    try:
        dying_with(parent, signal.SIGKILL)()
        inherit_orphans()
        os.setpgid(0, 0)
        result = function()
        end_children()
        with os.fdopen(pipe, "wb") as file:
            file.write(result + LAST)
        os._exit(0)
    finally:
        os._exit(1)
