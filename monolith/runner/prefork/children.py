"""The children as the parent sees them: started, given jobs, listened to, killed and buried.

A job goes to a child as a packet. The parent keeps the child's end of the inbox open as well: what the child has not begun can
be taken back from it, one packet at a time, and the kernel sees to it that only one of the two gets each.
"""

from __future__ import annotations

import json
import marshal
import mmap
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from monolith.linux.processes import end_children
from monolith.runner.prefork.child import LENGTH, PACKET, RUN, STOP, JobLoop, become_child, work_alone, work_waiting
from monolith.runner.prefork.options import Options
from monolith.runner.prefork.task import Task

REPORT_S = 5.0  # how often it is told while something runs: the heartbeat alone would be half a minute late; idle, that is enough
KILOBYTE = 1024


Report = tuple[Task, int, Any, float]  # the task, how it ended, with what, after how many seconds
_tickets = count(1)


class Child:
    """One child. `lanes` is None for an ordinary one, else how many waiting jobs it runs at once."""

    def __init__(self, options: Options, lanes: int | None = None) -> None:
        self.lanes = lanes
        self.tasks: dict[int, Task] = {}  # by ticket, in the order given: an ordinary child runs the first
        self.pid = 0
        self.is_leaving = False
        self._options = options
        self._served = 0
        self._heard = bytearray()
        self._given, self._inbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.reports, self._outbox = socket.socketpair()
        self._shared = mmap.mmap(-1, max(1, lanes or 0))
        self.reports.setblocking(False)

    def start(self, worker: Any, before: Callable[[], None]) -> None:
        """Fork. `before` runs in the child first, and closes what is not its business."""
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                become_child(parent)
                before()
                self._given.close()
                self.reports.close()
                self._work(worker)
            except BaseException:  # nothing may return into the parent's code
                worker.log.exception("Worker %s: a child ended", worker.name)
            finally:
                os._exit(1)
        with suppress(OSError):  # it does so itself; whoever is first
            os.setpgid(self.pid, self.pid)

    def _work(self, worker: Any) -> None:
        bench = JobLoop(worker, self._inbox, self._outbox, self._shared, self._options.child_max_growth)
        if self.lanes is None:
            work_alone(bench, worker.death_penalty_class)
        work_waiting(bench, self._inbox, self.lanes)

    def forget(self) -> None:
        """For another child: close our copies of what is this one's."""
        for end in (self._given, self._inbox, self.reports, self._outbox):
            end.close()

    # ---- work

    @property
    def free_lanes(self) -> int:
        return 0 if self.lanes is None or self.is_leaving else self.lanes - len(self.tasks)

    def give(self, task: Task) -> bool:
        """False when its inbox is full."""
        task.ticket = next(_tickets)
        task.lane = 0 if self.lanes is None else min(set(range(self.lanes)) - {one.lane for one in self.tasks.values()})
        is_plain = task.is_plain and not task.is_large
        order = (
            RUN,
            task.ticket,
            task.lane,
            task.job_id,
            task.queue.name,
            task.execution_id,
            task.taken_at.timestamp(),
            is_plain,
            task.limit,
        )
        try:
            self._given.send(marshal.dumps((*order, task.fields if is_plain else {})), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        if self.lanes is not None or not self.tasks:
            task.began = time.monotonic()
        self.tasks[task.ticket] = task
        return True

    def stop_lane(self, task: Task) -> None:
        self._given.send(marshal.dumps((STOP, task.ticket)))

    def take_back(self) -> list[Task]:
        """The tasks that this ordinary child has not begun, in their order. Nobody else will begin them now."""
        taken = []
        with suppress(BlockingIOError):
            while len(self.tasks) > 0:
                _, ticket, *_ = marshal.loads(self._inbox.recv(PACKET, socket.MSG_DONTWAIT))
                if ticket in self.tasks:  # not so: the stop of a lane
                    taken.append(self.tasks.pop(ticket))
        return taken

    def running(self) -> list[Task]:
        """What it runs now, or will when it next looks into its inbox."""
        tasks = list(self.tasks.values())
        return tasks[:1] if self.lanes is None else tasks

    def hear(self) -> Iterator[Report]:
        """How jobs ended, as far as it has said."""
        with suppress(BlockingIOError):
            while said := self.reports.recv(PACKET):
                self._heard += said
                if len(said) < PACKET:
                    break
        while len(self._heard) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._heard)[0]
            if len(self._heard) < end:
                return
            report = marshal.loads(self._heard[LENGTH.size : end])
            del self._heard[:end]
            yield self._heard_of(*report)

    def _heard_of(self, ticket: int, how: int, payload: Any, seconds: float, is_grown: bool) -> Report:
        task = self.tasks.pop(ticket)
        if self.lanes is None:
            for following in self.running():
                following.began = time.monotonic()
        self._served += 1
        self.is_leaving |= is_grown or self._served >= self._options.child_max_jobs
        return task, how, payload, seconds

    # ---- limits and the end

    def is_writing_down(self, task: Task) -> bool:
        """Whether the job is done and only its outcome is being written down, for which there is no limit."""
        return bool(self._shared[task.lane])

    def dismiss(self) -> None:
        """Let it end when its inbox is empty."""
        self._given.close()

    def kill(self) -> None:
        """End it and all of its group at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def has_ended(self) -> int | None:
        """Its wait status once it is dead, and then it is reaped."""
        with suppress(ChildProcessError):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return status if pid else None
        return 0


class Children:
    """All the children of a worker: a fixed number of ordinary ones, and waiting ones as they are needed."""

    def __init__(self, worker: Any, options: Options, close: Callable[[], None], others: Callable[[], set[int]]) -> None:
        self._worker = worker
        self._options = options
        self._close = close  # what a new child does with what it inherits from the parent
        self._others = others  # children of the parent that are none of ours
        self.children: list[Child] = []

    def fill(self) -> None:
        """Start the ordinary children that are missing."""
        while len(self.ordinary()) < self._options.concurrency:
            self._start(None)

    def _start(self, lanes: int | None) -> Child:
        child = Child(self._options, lanes)
        others = list(self.children)

        def close() -> None:
            self._close()
            for other in others:
                other.forget()

        child.start(self._worker, close)
        self.children.append(child)
        return child

    def ordinary(self) -> list[Child]:
        return [child for child in self.children if child.lanes is None and not child.is_leaving]

    def waiting(self) -> list[Child]:
        return [child for child in self.children if child.lanes is not None and not child.is_leaving]

    def waiting_room(self) -> int:
        """For how many more waiting jobs there is room, counting children that would be started for them."""
        unborn = self._options.concurrency - len(self.waiting())
        return sum(child.free_lanes for child in self.waiting()) + unborn * self._options.waiting_per_child

    def lane_for(self) -> Child:
        """The fullest waiting child with a free lane: the others may end."""
        free = [child for child in self.waiting() if child.free_lanes]
        return min(free, key=lambda child: child.free_lanes) if free else self._start(self._options.waiting_per_child)

    def tasks(self) -> list[Task]:
        return [task for child in self.children for task in child.tasks.values()]

    def bury(self) -> Iterator[tuple[Child, int]]:
        """The children that have died, with their wait status. What they had started the kernel has made ours: it ends."""
        dead = [(child, status) for child in self.children if (status := child.has_ended()) is not None]
        if dead:
            self.children = [child for child in self.children if all(child is not one for one, _ in dead)]
            end_children(but={child.pid for child in self.children} | self._others())
        for child, status in dead:
            yield child, status
            child.forget()


def signal_of(status: int) -> str:
    """How a process ended, in words."""
    return f"it got {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else f"it left with code {os.WEXITSTATUS(status)}"


class ChildrenReport:
    """What is told with each heartbeat, and more often while something runs."""

    def __init__(self, crew: Children) -> None:
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
