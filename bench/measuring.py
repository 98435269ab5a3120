"""What a worker costs: its processes as /proc counts them, Redis as INFO does, and the records its jobs left."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from bench.work import RECORD_BYTES

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
POLL_S = 0.005


@dataclass(frozen=True)
class Record:
    submitted_at: float
    began_at: float
    ended_at: float


class Records:
    """The file that the jobs append to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clear()

    def clear(self) -> None:
        self.path.write_bytes(b"")

    def count(self) -> int:
        return self.path.stat().st_size // RECORD_BYTES

    def read(self) -> list[Record]:
        numbers = array("d", self.path.read_bytes())
        return [Record(*numbers[place : place + 3]) for place in range(0, len(numbers), 3)]


@dataclass(frozen=True)
class Usage:
    """What was used up to a moment; the difference of two is what was used between."""

    at: float
    cpu_s: float
    redis_cpu_s: float
    commands: float
    round_trips: float

    def since(self, earlier: Usage) -> Usage:
        return Usage(*(now - before for now, before in zip(vars(self).values(), vars(earlier).values(), strict=True)))


def usage(worker: int, redis: Redis) -> Usage:
    """Up to now, by the worker's processes and by the whole Redis server. Commands within scripts and transactions count too."""
    info = redis.info("everything")
    calls = {name: told["calls"] for name, told in info.items() if name.startswith("cmdstat_")}
    return Usage(
        time.monotonic(),
        cpu_s(worker),
        info["used_cpu_user"] + info["used_cpu_sys"],
        sum(calls.values()) - calls.get("cmdstat_info", 0),  # those are ours
        info["total_reads_processed"],
    )


def cpu_s(root: int) -> float:
    """CPU seconds of a process and all below it, those that ended included."""
    stats = _stats()
    return sum(sum(map(int, stats[pid][11:15])) for pid in _tree(root, stats)) / TICKS_PER_S


def pss_mb(root: int) -> float:
    """The memory of a process and all below it; what several share counts once."""
    return sum(_pss_kb(pid) for pid in tree(root)) / 1024


def tree(root: int) -> list[int]:
    """A process and all below it."""
    return _tree(root, _stats())


def _tree(root: int, stats: dict[int, list[str]]) -> list[int]:
    found = [root] if root in stats else []
    for parent in found:  # grows while it is walked
        found += [pid for pid, stat in stats.items() if int(stat[1]) == parent]
    return found


def _stats() -> dict[int, list[str]]:
    """The fields of each /proc/PID/stat from the third, the state, on."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            found[int(path.name)] = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it is gone already
            continue
    return found


def _pss_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def until(is_so: Callable[[], bool], within_s: float, what: str, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Ask again and again until it is so. Raises TimeoutError, which says what was waited for."""
    give_up_at = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{what}: timed out after {within_s:g} s")
        meanwhile()
        time.sleep(POLL_S)


class Peak:
    """The most memory that was seen. Called often, it looks twice a second, because looking costs the worker's time."""

    def __init__(self, worker: int) -> None:
        self.mb = 0.0
        self._worker = worker
        self._due_at = 0.0

    def __call__(self) -> None:
        if time.monotonic() >= self._due_at:
            self.mb = max(self.mb, pss_mb(self._worker))
            self._due_at = time.monotonic() + 0.5
