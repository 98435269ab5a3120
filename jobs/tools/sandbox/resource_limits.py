"""Measures a sandbox from outside and reports the first limit that it exceeds.

`init_process.py` sets the kernel's limits for a single process; these are for all processes together. They are read from the
sandbox's own /proc, which lists only its processes, so measuring takes no longer on a busy machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from monolith.config import settings

from . import init_process
from .bwrap_command import MAX_TASKS, MEGABYTE

MAX_FILES = 30_000  # files and folders in the sandbox
MEMORY_EXCEEDED = "It used more than {} MB of memory."
DISK_FULL = "It filled its {} MB of disk."
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class LimitExceeded:
    """Why a sandbox was killed: the name of the limit, and a sentence for the submitter."""

    limit: str
    detail: str


@dataclass
class ResourceMonitor:
    """Tracks what one sandbox uses. `pid` is its first process, as numbered outside of the sandbox."""

    pid: int
    started_at: float = field(default_factory=time.monotonic)
    peak_memory: int = 0
    cpu_s: float = 0.0
    most_tasks: int = 0

    def measure(self) -> LimitExceeded | None:
        """Measures once and returns the limit that is exceeded, if any."""
        try:
            disk = os.statvfs(self._root / str(init_process.WORKSPACE)[1:])
            found = list(self._processes())
        except OSError:  # the sandbox has just ended
            return None
        self.cpu_s = max(self.cpu_s, sum(one.cpu_s for one in found))
        self.most_tasks = max(self.most_tasks, sum(one.threads for one in found))
        memory = sum(one.resident for one in found)  # counts shared pages once for each process
        if memory > self.peak_memory and self.most_tasks <= MAX_TASKS:  # PSS is slow to read: only when the sum may be a new peak
            self.peak_memory = max(self.peak_memory, sum(one.proportional_bytes() for one in found))
        return self._exceeded(disk)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started_at

    def usage(self) -> dict[str, float]:
        """Returns the usage for the result: seconds, CPU seconds, peak memory in MB, most processes and threads."""
        peak = round(self.peak_memory / MEGABYTE, 1)
        return {
            "seconds": round(self.seconds, 2),
            "cpu_seconds": round(self.cpu_s, 2),
            "peak_memory_mb": peak,
            "most_tasks": self.most_tasks,
        }

    def _exceeded(self, disk: os.statvfs_result) -> LimitExceeded | None:
        config = settings()
        over = {
            LimitExceeded("time", f"It ran longer than {config.sandbox_seconds} s."): self.seconds > config.sandbox_seconds,
            LimitExceeded("cpu", f"It used more than {config.sandbox_seconds} s of one CPU."): self.cpu_s > config.sandbox_seconds,
            LimitExceeded("memory", MEMORY_EXCEEDED.format(config.sandbox_memory_mb)): self.peak_memory
            > config.sandbox_memory_mb * MEGABYTE,
            LimitExceeded("processes", f"It started more than {MAX_TASKS} processes and threads."): self.most_tasks > MAX_TASKS,
            LimitExceeded("disk", DISK_FULL.format(config.sandbox_disk_mb)): disk.f_bavail == 0,
            LimitExceeded("files", f"It created more than {MAX_FILES:,} files."): disk.f_files - disk.f_ffree > MAX_FILES,
        }
        return next((limit for limit, is_over in over.items() if is_over), None)

    @property
    def _root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    def _processes(self) -> Iterator[Process]:
        for name in os.listdir(self._root / "proc"):  # noqa: PTH208 - runs forty times a second
            if name.isdigit():
                with suppress(OSError, IndexError):  # the process has just ended
                    yield Process.read(self._root / "proc" / name)


@dataclass(frozen=True)
class Process:
    """One process of a sandbox. `resident` is its memory in bytes, shared pages included."""

    path: Path
    resident: int
    threads: int
    cpu_s: float

    @classmethod
    def read(cls, path: Path) -> Process:
        values = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return cls(path, int(values[21]) * PAGE, int(values[17]), sum(int(one) for one in values[11:15]) / TICKS)

    def proportional_bytes(self) -> int:
        """Returns its proportional set size (shared pages divided among their users), or `resident` where that is not readable."""
        with suppress(OSError):
            for line in (self.path / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        return self.resident
