"""A control group for each sandbox, where an admin has set aside a group to make them in: the kernel's own limits on all of it.

They hold what measuring from outside cannot: memory that no process shows, and what is taken between two looks.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from monolith.config import settings

MEGABYTE = 1024 * 1024
MAX_TASKS = 256 + 32  # as many as each sandbox may have before `watch.py` ends it, and bubblewrap's own
ENDING_S = 5.0
ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


class NoGroup(Exception):
    """`SANDBOX_CGROUP` cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Group:
    """The group of one sandbox."""

    path: Path

    def entering(self, command: list[str]) -> list[str]:
        """The command that enters the group before it does anything."""
        return ["/bin/sh", "-c", ENTER, str(self.path), *command]

    def was_too_large(self) -> bool:
        """Whether the kernel ended it for want of memory."""
        path = self.path / "memory.events"
        return path.exists() and "oom_kill 0" not in path.read_text()


def limits() -> dict[str, str]:
    """What is written into a group. Its memory holds the sandbox's disk too."""
    config = settings()
    return {
        "memory.max": str((config.sandbox_memory_mb + config.sandbox_disk_mb) * MEGABYTE),
        "memory.oom.group": "1",
        "pids.max": str(MAX_TASKS),
        "cpu.max": "100000 100000",  # of each 100,000 us so many: one CPU
    }


@contextmanager
def group() -> Iterator[Group | None]:
    """A group for one sandbox, removed when all in it has ended; None where no group is set aside. Raises `NoGroup`."""
    parent = settings().sandbox_cgroup
    if parent is None:
        yield None
        return
    if not Path(parent, "cgroup.subtree_control").exists():
        raise NoGroup(f"SANDBOX_CGROUP: {parent} is not a control group (v2). Fix or unset it")
    made = Group(Path(parent, f"intray-{os.getpid()}-{secrets.token_hex(4)}"))
    try:
        made.path.mkdir()
    except OSError as error:
        raise NoGroup(f"SANDBOX_CGROUP: cannot create a group in {parent} ({error.strerror}). Fix or unset it") from None
    try:
        _write_limits(made.path)
        yield made
    finally:
        _remove(made.path)


def _write_limits(path: Path) -> None:
    for name, value in limits().items():
        try:
            (path / name).write_text(value)
        except OSError as error:
            why = f"{name} cannot be set ({error.strerror}): its cgroup.subtree_control must have memory, pids and cpu"
            raise NoGroup(f"SANDBOX_CGROUP: in {path.parent} {why}. Fix or unset it") from None


def _remove(path: Path) -> None:
    """The kernel lets a group go when the last process in it has been reaped, which takes a moment."""
    give_up_at = time.monotonic() + ENDING_S
    while True:
        try:
            path.rmdir()
            return
        except OSError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)
