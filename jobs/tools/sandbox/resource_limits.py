"""What a sandbox uses, measured from outside, and which limit it is over.

Limits of one process are the kernel's (`inside.py`); these are of all processes together. A sandbox's own /proc lists all that is in
it and nothing else, so looking takes no longer on a busy machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from monolith.config import settings

from ...tools.sandbox import init_process
from ...tools.sandbox.bwrap_command import MAX_TASKS, MEGABYTE

MAX_FILES = 30_000  # and folders, in the sandbox
GLUTTON = "It used more than {} MB of memory."
FULL = "It filled its {} MB of disk."
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Kill:
    """Why a sandbox was ended: the limit's name, and a sentence about it."""

    limit: str
    detail: str


@dataclass
class Watch:
    """One sandbox, from its start on. `pid` is that of its first process, seen from here."""

    pid: int
    started_at: float = field(default_factory=time.monotonic)
    peak_memory: int = 0
    cpu_s: float = 0.0
    most_tasks: int = 0

    def look(self) -> Kill | None:
        """Measure once; the limit that it is over, if any."""
        try:
            disk = os.statvfs(self._root / str(init_process.SPACE)[1:])
            found = list(self._processes())
        except OSError:  # it has just ended
            return None
        self.cpu_s = max(self.cpu_s, sum(one.cpu_s for one in found))
        self.most_tasks = max(self.most_tasks, sum(one.threads for one in found))
        memory = sum(one.resident for one in found)  # counts what processes share several times
        if memory > self.peak_memory and self.most_tasks <= MAX_TASKS:  # looking closer takes long: only when it matters
            self.peak_memory = max(self.peak_memory, sum(one.share() for one in found))
        return self._judge(disk)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started_at

    def usage(self) -> dict[str, float]:
        """What it took, for the result."""
        peak = round(self.peak_memory / MEGABYTE, 1)
        return {
            "seconds": round(self.seconds, 2),
            "cpu_seconds": round(self.cpu_s, 2),
            "peak_memory_mb": peak,
            "most_tasks": self.most_tasks,
        }

    def _judge(self, disk: os.statvfs_result) -> Kill | None:
        config = settings()
        over = {
            Kill("time", f"It ran longer than {config.sandbox_seconds} s."): self.seconds > config.sandbox_seconds,
            Kill("cpu", f"It used more than {config.sandbox_seconds} s of one CPU."): self.cpu_s > config.sandbox_seconds,
            Kill("memory", GLUTTON.format(config.sandbox_memory_mb)): self.peak_memory > config.sandbox_memory_mb * MEGABYTE,
            Kill("processes", f"It started more than {MAX_TASKS} processes and threads."): self.most_tasks > MAX_TASKS,
            Kill("disk", FULL.format(config.sandbox_disk_mb)): disk.f_bavail == 0,
            Kill("files", f"It created more than {MAX_FILES:,} files."): disk.f_files - disk.f_ffree > MAX_FILES,
        }
        return next((kill for kill, is_over in over.items() if is_over), None)

    @property
    def _root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    def _processes(self) -> Iterator[Process]:
        for name in os.listdir(self._root / "proc"):  # noqa: PTH208 - forty times a second
            if name.isdigit():
                with suppress(OSError, IndexError):  # it is gone already
                    yield Process.read(self._root / "proc" / name)


@dataclass(frozen=True)
class Process:
    """One process of a sandbox. `resident` are the bytes it holds in memory, what it shares with others included."""

    path: Path
    resident: int
    threads: int
    cpu_s: float

    @classmethod
    def read(cls, path: Path) -> Process:
        values = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return cls(path, int(values[21]) * PAGE, int(values[17]), sum(int(one) for one in values[11:15]) / TICKS)

    def share(self) -> int:
        """The bytes it holds, of what is shared its part only; all of it where that is not told."""
        with suppress(OSError):
            for line in (self.path / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        return self.resident
