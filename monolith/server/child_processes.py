"""The processes of `manage.py run`: starting, restarting with a growing delay, and stopping them."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Protocol

import structlog

from monolith.linux.processes import dying_with, session

LONGEST_DELAY_S = 30.0
STEADY_S = 60.0  # a process that lived so long starts again without delay
POLL_S = 0.05
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

log = structlog.get_logger()


class StopSignal:
    """Catches SIGTERM, SIGINT and SIGHUP: after the first, `is_asked()` is true and `wait()` returns immediately.

    Uses a pipe and not a `threading.Event`: setting an event in a signal handler can deadlock on the lock that the interrupted
    `wait()` holds.
    """

    def __init__(self) -> None:
        self.asked = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        with suppress(BlockingIOError):
            os.write(self._writer, b"x")

    def is_asked(self) -> bool:
        return self.asked

    def wait(self, seconds: float) -> bool:
        """Waits so many seconds, or until a signal comes. Returns whether one came."""
        select.select([self._reader], [], [], seconds)
        return self.asked

    def close(self) -> None:
        """Closes the pipe, in a forked child: its signals must not wake this process."""
        os.close(self._reader)
        os.close(self._writer)


class Running(Protocol):
    """What `ChildProcess` needs of a process; `subprocess.Popen` is one."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def terminate(self) -> None: ...


class ChildProcess:
    """A program that is kept running: started in a session of its own, and restarted with a growing delay when it dies."""

    def __init__(self, name: str, command: list[str], env: Mapping[str, str], when_orphaned: signal.Signals = signal.SIGKILL) -> None:
        self.name = name
        self._command = command
        self._env = env
        self._when_orphaned = when_orphaned
        self._process: Running | None = None
        self._started_at = 0.0
        self._due_at = 0.0
        self._delay = 0.0

    def start(self) -> None:
        """Raises OSError when the program cannot be started."""
        self._started_at = time.monotonic()
        self._process = self._begin()

    def _begin(self) -> Running:
        return subprocess.Popen(  # noqa: S603 - our own programs
            self._command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=dying_with(os.getpid(), self._when_orphaned),
        )

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def keep_alive(self) -> None:
        """Restarts the process if it has died and its delay is over."""
        if self.lives():
            return
        if self._process is not None:
            self._note_end(self._process)
        if time.monotonic() >= self._due_at:
            self.start()

    def _note_end(self, process: Running) -> None:
        lived = time.monotonic() - self._started_at
        self._delay = 1.0 if lived > STEADY_S else min(max(1.0, self._delay * 2), LONGEST_DELAY_S)
        self._due_at = time.monotonic() + self._delay
        self._process = None
        _kill_session(process.pid)
        log.error("process_ended", name=self.name, code=process.returncode, starts_again_in_s=self._delay)

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kills the process and what is left of its session: jobs, and processes that jobs started."""
        if self._process is not None:
            _kill_session(self._process.pid)
            self._process.wait()


class ForkedChild(ChildProcess):
    """A fork of this process that runs a function, and is kept running as a program is. It has all that this process has imported.

    Only for a process without threads. The function gets a process like a new one, with the signals of one; what else it must not
    inherit, it closes itself.
    """

    def __init__(self, name: str, function: Callable[[], None]) -> None:
        super().__init__(name, [], {})
        self._function = function

    def _begin(self) -> Running:
        process = _FORKS.Process(target=self._become, args=(os.getpid(),), name=self.name)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # this process's handlers must not run in the child
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return _Fork(process)

    def _become(self, parent: int) -> None:
        """In the child: make it like a program that has just been started, and run the function."""
        os.setsid()
        dying_with(parent, self._when_orphaned)()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self._function()


_FORKS = multiprocessing.get_context("fork")


class _Fork:
    """A process of `multiprocessing`, used like a `subprocess.Popen`."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._process = process
        self.pid = process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        return self._process.exitcode or 0

    def terminate(self) -> None:
        self._process.terminate()


def end(children: Iterable[ChildProcess], grace_s: float) -> None:
    """Sends SIGTERM to all processes, waits up to `grace_s` seconds, then kills those that are left."""
    children = list(children)
    for child in children:
        child.terminate()
    give_up_at = time.monotonic() + grace_s
    while any(child.lives() for child in children) and time.monotonic() < give_up_at:
        time.sleep(POLL_S)
    for child in children:
        if child.lives():
            log.warning("process_killed", name=child.name, waited_s=grace_s)
        child.kill()


def _kill_session(leader: int) -> None:
    for pid in session(leader):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
