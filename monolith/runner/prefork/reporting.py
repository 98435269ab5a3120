"""What the children of a worker are at, and the memory they hold: for whoever looks, in the worker's own hash in Redis."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from monolith.runner.prefork.crew import Child, Crew

REPORT_S = 5.0  # how often it is told while something runs: the heartbeat alone would be half a minute late; idle, that is enough
KILOBYTE = 1024


class Reporting:
    """What is told with each heartbeat, and more often while something runs."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._due_at = 0.0

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._due_at

    def fields(self) -> dict[str, str]:
        """The fields of the hash: `memory` of the parent in bytes, and `children`, JSON: a list of {pid, memory, waits, jobs}."""
        self._due_at = time.monotonic() + REPORT_S
        children = [_told(child) for child in self._crew.children]
        return {"memory": str(memory(os.getpid()) or ""), "children": json.dumps(children, separators=(",", ":"))}


def _told(child: Child) -> dict[str, Any]:
    jobs = [task.job_id for task in child.running()]
    return {"pid": child.pid, "memory": memory(child.pid), "waits": child.lanes is not None, "jobs": jobs}


def memory(pid: int) -> int | None:
    """Bytes that the process holds, of what it shares its part (PSS); all of what it shares where the system does not tell (RSS)."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return KILOBYTE * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None
