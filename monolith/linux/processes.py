"""Linux calls for processes that must leave nothing behind: death signals, orphans, marked processes; and their memory.

On other systems these do nothing, or less.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
M_TRIM_THRESHOLD, M_ARENA_MAX = -1, -8
PROC = Path("/proc")
GUARD = Path(__file__).with_name("orphan_guard.py")
KILOBYTE = 1024


@cache
def _prctl() -> Callable[[int, Any], int]:
    """The system call, looked up before a fork: looking it up afterwards may wait for a lock that no thread holds any more."""
    call: Callable[[int, Any], int] = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda option, value: 0
    return call


def keep_few_heaps() -> None:
    """Let all threads share two heaps and return free memory to the system. With a heap per thread, large uploads stay in memory."""
    with suppress(AttributeError):  # another C library than glibc
        for option, value in ((M_ARENA_MAX, 2), (M_TRIM_THRESHOLD, 128 * 1024)):
            ctypes.CDLL(None).mallopt(option, value)


def set_command_line(*words: str) -> None:
    """Let `ps` and /proc show these words for this process, which was forked: it has the command line of its parent.

    They are written over the words that it was started with, and cut off where they are longer.
    """
    with suppress(OSError, ValueError, IndexError):  # no /proc
        start, end = map(int, (PROC / "self" / "stat").read_text().rpartition(")")[2].split()[45:47])
        if 0 < start < end:  # 0: the system does not say
            ctypes.memmove(start, "\0".join(words).encode()[: end - start - 1].ljust(end - start, b"\0"), end - start)


def dying_with(parent: int, number: signal.Signals) -> Callable[[], None]:
    """A function for a new process to call: from then on it gets this signal when its parent dies."""
    if sys.platform != "linux":
        return lambda: None
    prctl = _prctl()

    def ask_the_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask_the_kernel


def forks_die_with_us() -> None:
    """From now on, every forked child is killed with this process. An orphaned job would go on beside its second run."""

    parent = os.getpid()
    _prctl()

    def before() -> None:
        nonlocal parent
        parent = os.getpid()

    os.register_at_fork(before=before, after_in_child=lambda: dying_with(parent, signal.SIGKILL)())


class OrphanGuard:
    """A process that kills every process marked with `mark` once this process and all its forks have ended.

    Children die with their parent, but the programs that they have started do not. These have the mark, `NAME=value`, in their
    environment. `pid` is 0 where there is no /proc.
    """

    def __init__(self, mark: str) -> None:
        self._program = [sys.executable, "-I", "-S", str(GUARD), mark]
        self._reader, self._open_until_death = os.pipe()
        self.pid = self._start() if _has_proc() else 0

    def _start(self) -> int:
        return os.posix_spawn(sys.executable, self._program, {}, file_actions=[(os.POSIX_SPAWN_DUP2, self._reader, 0)], setsid=True)

    def replace_if_dead(self) -> bool:
        """Start another one if it was killed; the forks that live are known to that one too. Whether it was."""
        if not self.pid:
            return False
        with suppress(ChildProcessError):  # somebody else has reaped it
            if os.waitpid(self.pid, os.WNOHANG)[0] == 0:
                return False
        self.pid = self._start()
        return True


class ForksEndHere:
    """A block of somebody else's code: a process that it forks, and that comes to the block's end as well, ends there."""

    def __enter__(self) -> None:
        self._pid = os.getpid()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if os.getpid() != self._pid:
            _leave_as_python_does(error)


def _leave_as_python_does(error: BaseException | None) -> NoReturn:
    """End this process with the exit code that Python itself would give, without what is to be done at an exit."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


def inherit_orphans() -> None:
    """From now on, a descendant whose parent dies becomes a child of this process, which can then end it."""
    _prctl()(PR_SET_CHILD_SUBREAPER, 1)


def describe_status(status: int) -> str:
    """How a process ended, in words, from its wait status."""
    if not os.WIFSIGNALED(status):
        return f"it left with code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    try:
        return f"it got {signal.Signals(number).name}"
    except ValueError:  # most real-time signals have no name
        return f"it got signal {number}"


def has_children() -> bool:
    """Whether any child lives or is still to be reaped. One system call; nothing is reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_children(but: Collection[int] = ()) -> None:
    """Kill and reap every child except these, and the orphans that become our children by that, until none is left."""
    while strays := [pid for pid, parent, _ in _processes() if parent == os.getpid() and pid not in but]:
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in strays:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def kill_marked(mark: str) -> None:
    """Kill every process that was started with this `NAME=value` in its environment, in whatever session it is now."""
    for path in PROC.glob("[0-9]*"):
        with suppress(OSError):
            if int(path.name) != os.getpid() and mark.encode() in (path / "environ").read_bytes().split(b"\0"):
                os.kill(int(path.name), signal.SIGKILL)


def session(leader: int) -> list[int]:
    """The processes of the session; each running job has a process group of its own in it. The leader alone where there is no /proc."""
    return [pid for pid, _, its_session in _processes() if its_session == leader] if _has_proc() else [leader]


def memory(pid: int) -> int | None:
    """The memory of a process in bytes: with its part of shared pages (PSS), or all of them where that is unknown. None if it is gone."""
    with suppress(OSError, StopIteration):
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        return KILOBYTE * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    with suppress(OSError):
        return int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def name_us(name: str) -> None:
    """Give this process a name of up to 15 characters, which `ps -o comm` shows."""
    _prctl()(PR_SET_NAME, name.encode())


def is_frozen(pid: int) -> bool:
    """Whether the process was stopped by a signal (SIGSTOP) and does not run."""
    with suppress(OSError):
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def _has_proc() -> bool:
    return (PROC / "self" / "stat").exists()


def _processes() -> list[tuple[int, int, int]]:
    """Id, parent and session of every process. Empty where there is no /proc."""
    found = []
    for path in PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            _, parent, _, its_session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            found.append((int(path.name), int(parent), int(its_session)))
    return found
