"""A control group (v2) for each sandbox, if an admin has delegated one in SANDBOX_CGROUP: limits enforced by the kernel.

They cover what measuring from outside cannot: memory that belongs to no process, and peaks between two measurements.
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

from .bwrap_command import MAX_TASKS, MEGABYTE, SPARE_TASKS

ENDING_S = 5.0
ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


class CgroupUnavailable(Exception):
    """`SANDBOX_CGROUP` cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Cgroup:
    """The control group of one sandbox."""

    path: Path

    def wrap(self, command: list[str]) -> list[str]:
        """Returns a command that enters the group and then runs `command`."""
        return ["/bin/sh", "-c", ENTER, str(self.path), *command]

    def was_oom_killed(self) -> bool:
        """Whether the kernel killed it because it exceeded its memory limit."""
        path = self.path / "memory.events"
        return path.exists() and "oom_kill 0" not in path.read_text()


def limits() -> dict[str, str]:
    """Returns the limits of a group by file name. The memory limit includes the sandbox's disk, which is in memory."""
    config = settings()
    return {
        "memory.max": str((config.sandbox_memory_mb + config.sandbox_disk_mb) * MEGABYTE),
        "memory.oom.group": "1",
        "pids.max": str(SPARE_TASKS + MAX_TASKS),
        "cpu.max": "100000 100000",  # 100,000 of each 100,000 us: one CPU
    }


@contextmanager
def new_cgroup() -> Iterator[Cgroup | None]:
    """Creates a group for one sandbox and removes it on exit; yields None without SANDBOX_CGROUP. Raises `CgroupUnavailable`."""
    parent = settings().sandbox_cgroup
    if parent is None:
        yield None
        return
    if not Path(parent, "cgroup.subtree_control").exists():
        raise CgroupUnavailable(f"SANDBOX_CGROUP: {parent} is not a control group (v2). Fix or unset it")
    cgroup = Cgroup(Path(parent, f"intray-{os.getpid()}-{secrets.token_hex(4)}"))
    try:
        cgroup.path.mkdir()
    except OSError as error:
        raise CgroupUnavailable(f"SANDBOX_CGROUP: cannot create a group in {parent} ({error.strerror}). Fix or unset it") from None
    try:
        _write_limits(cgroup.path)
        yield cgroup
    finally:
        _remove(cgroup.path)


def _write_limits(path: Path) -> None:
    for name, value in limits().items():
        try:
            (path / name).write_text(value)
        except OSError as error:
            why = f"{name} cannot be set ({error.strerror}): its cgroup.subtree_control must have memory, pids and cpu"
            raise CgroupUnavailable(f"SANDBOX_CGROUP: in {path.parent} {why}. Fix or unset it") from None


def _remove(path: Path) -> None:
    """Removes the group. The kernel allows this only once its last process has been reaped, which takes a moment."""
    give_up_at = time.monotonic() + ENDING_S
    while True:
        try:
            path.rmdir()
            return
        except OSError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)
