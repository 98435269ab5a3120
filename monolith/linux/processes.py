"""What Linux does for a process that must leave nothing behind: whom death takes along, and who inherits orphans.

Elsewhere than on Linux these do nothing, or less. Only the standard library is imported here.
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

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
M_TRIM_THRESHOLD, M_ARENA_MAX = -1, -8
PROCESSES = Path("/proc")
GUARD = Path(__file__).with_name("orphan_guard.py")


@cache
def _prctl() -> Callable[[int, int], int]:
    """The system call, found before a fork: looking it up after one may wait for a lock that nobody holds any more."""
    call: Callable[[int, int], int] = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda option, value: 0
    return call


def keep_few_heaps() -> None:
    """Threads share two heaps, and what is free goes back to the system: with one for each thread, large uploads stay in memory."""
    with suppress(AttributeError):  # another C library than glibc
        for option, value in ((M_ARENA_MAX, 2), (M_TRIM_THRESHOLD, 128 * 1024)):
            ctypes.CDLL(None).mallopt(option, value)


def dying_with(parent: int, number: signal.Signals) -> Callable[[], None]:
    """What a new process does to get this signal when its parent dies."""
    if sys.platform != "linux":
        return lambda: None
    prctl = _prctl()

    def ask_the_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask_the_kernel


def forks_die_with_us() -> None:
    """From now on, every forked child is killed with this process: an orphaned job would go on beside its second run."""

    parent = os.getpid()
    _prctl()

    def before() -> None:
        nonlocal parent
        parent = os.getpid()

    os.register_at_fork(before=before, after_in_child=lambda: dying_with(parent, signal.SIGKILL)())


def leave_guard(mark: str) -> int:
    """Start a process that outlives us and all we fork from now on, for then to kill what still bears the mark. Its id.

    Death takes our children along, but not the programs that they have started. The `NAME=value` is in their environment.
    """
    if not _is_told():
        return 0
    reader, _held_till_death = os.pipe()
    program = [sys.executable, "-I", "-S", str(GUARD), mark]
    guard = os.posix_spawn(sys.executable, program, {}, file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)], setsid=True)
    os.close(reader)
    return guard


def inherit_orphans() -> None:
    """From now on, a descendant whose parent dies becomes a child of this process: it can neither hide nor be forgotten."""
    _prctl()(PR_SET_CHILD_SUBREAPER, 1)


def has_children() -> bool:
    """Whether any child lives or is still to be reaped. One system call; nothing is reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_children(but: Collection[int] = ()) -> None:
    """Kill and reap every child except these, and the orphans that come to us by that, until none is left."""
    while strays := [pid for pid in _children() if pid not in but]:
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in strays:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def kill_marked(mark: str) -> None:
    """Kill every process that was started with this `NAME=value` in its environment, whatever session it went to."""
    for path in PROCESSES.glob("[0-9]*"):
        with suppress(OSError):
            if int(path.name) != os.getpid() and mark.encode() in (path / "environ").read_bytes().split(b"\0"):
                os.kill(int(path.name), signal.SIGKILL)


def session(leader: int) -> list[int]:
    """The processes of the session: several groups, because each running job has its own."""
    return [pid for pid, _, its_session in _living() if its_session == leader] if _is_told() else [leader]


def _children() -> list[int]:
    return [pid for pid, parent, _ in _living() if parent == os.getpid()] if _is_told() else []


def _is_told() -> bool:
    return (PROCESSES / "self" / "stat").exists()


def _living() -> list[tuple[int, int, int]]:
    """Id, parent and session of every process."""
    found = []
    for path in PROCESSES.glob("[0-9]*"):
        with suppress(OSError):  # it is gone already
            _, parent, _, its_session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            found.append((int(path.name), int(parent), int(its_session)))
    return found
