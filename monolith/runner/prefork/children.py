"""The parent's side of the children: starting them, sending them tasks, reading their reports, enforcing limits, reaping them.

A task goes to a child as a packet. The parent keeps the child's end of the inbox open as well, so it can take back what the
child has not started, one packet at a time: the kernel gives each packet to one of the two only.
"""

from __future__ import annotations

import json
import logging
import marshal
import mmap
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

from monolith.linux.processes import describe_status, end_children, memory
from monolith.runner.prefork.child import (
    DONE,
    ENDED,
    FAILED,
    HANDLED,
    LENGTH,
    PACKET,
    RUN,
    STOP,
    STOPPED,
    JobRunner,
    become_child,
    work_alone,
    work_io_bound,
)
from monolith.runner.prefork.options import Options
from monolith.runner.prefork.redis_script import FreeSlots
from monolith.runner.prefork.task import Task, TaskOutcome

AHEAD_S = 0.02  # a child is sent so much work beyond what it runs
MAX_AHEAD = 64
BLOCKED_S = 0.25  # tasks that wait so long behind a running one go elsewhere
LATE_S = 1.0  # the child itself ends a job at its limit; the parent kills the child this much later
STOPPING_S = 2.0  # how long an I/O-bound job has to stop before its child is killed

OUTCOMES = {DONE: "done", FAILED: "failed", HANDLED: "handled", STOPPED: "stopped", ENDED: "ended"}
log = logging.getLogger("rq.worker")
Report = tuple[Task, int, Any, float]  # the task, how it ended, with what, after how many seconds
_tickets = count(1)


class Child:
    """One child. `slots` is None for an ordinary one, else how many I/O-bound jobs it runs at once."""

    def __init__(self, options: Options, slots: int | None = None) -> None:
        self.slots = slots
        self.tasks: dict[int, Task] = {}  # by ticket, in the order sent: an ordinary child runs the first
        self.pid = 0
        self.is_leaving = False
        self._options = options
        self._finished = 0
        self._unparsed = bytearray()
        self._inbox, self._childs_inbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.reports, self._childs_outbox = socket.socketpair()
        self._recording = mmap.mmap(-1, max(1, slots or 0))  # a byte for each slot: 1 while the job records its outcome
        self.reports.setblocking(False)

    def start(self, worker: Any, prepare: Callable[[], None]) -> None:
        """Fork. `prepare` runs in the child first, and closes what it must not inherit."""
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                become_child(parent)
                prepare()
                self._inbox.close()
                self.reports.close()
                runner = JobRunner(worker, self._childs_inbox, self._childs_outbox, self._recording, self._options.child_max_growth)
                if self.slots is None:
                    work_alone(runner, worker.death_penalty_class)
                work_io_bound(runner, self._childs_inbox, self.slots)
            except BaseException:  # nothing may return into the parent's code
                worker.log.exception("Worker %s: a child ended", worker.name)
            finally:
                os._exit(1)
        with suppress(OSError):  # the child does this itself too, and may have been faster
            os.setpgid(self.pid, self.pid)

    def close(self) -> None:
        """Close this process's copies of the child's sockets."""
        for end in (self._inbox, self._childs_inbox, self.reports, self._childs_outbox):
            end.close()

    # ---- tasks

    @property
    def free_slots(self) -> int:
        return 0 if self.slots is None or self.is_leaving else self.slots - len(self.tasks)

    def send(self, task: Task) -> bool:
        """Send the task to the child. False when its inbox is full."""
        task.ticket = next(_tickets)
        task.slot = 0 if self.slots is None else min(set(range(self.slots)) - {one.slot for one in self.tasks.values()})
        is_plain = task.claimed is None and task.is_plain and not task.is_large
        assignment = (
            RUN,
            task.ticket,
            task.slot,
            task.job_id,
            task.queue.name,
            task.execution_id,
            task.taken_at.timestamp(),
            is_plain,
            task.limit,
            task.fields if is_plain else {},
            task.claim_number,
            task.claimed,
        )
        try:
            self._inbox.send(marshal.dumps(assignment), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        if self.slots is not None or not self.tasks:
            task.started_at = time.monotonic()
        self.tasks[task.ticket] = task
        return True

    def request_stop(self, task: Task) -> None:
        """Ask a child for I/O-bound jobs to end one of them."""
        self._inbox.send(marshal.dumps((STOP, task.ticket)))

    def take_back(self) -> list[Task]:
        """Remove and return the tasks that this ordinary child has not started, in their order."""
        taken = []
        with suppress(BlockingIOError):
            while len(self.tasks) > 0:
                _, ticket, *_ = marshal.loads(self._childs_inbox.recv(PACKET, socket.MSG_DONTWAIT))
                if ticket in self.tasks:  # not so: the stop of an I/O-bound job
                    taken.append(self.tasks.pop(ticket))
        return taken

    def running(self) -> list[Task]:
        """The tasks that it runs now, or as soon as it reads its inbox."""
        tasks = list(self.tasks.values())
        return tasks[:1] if self.slots is None else tasks

    def read_reports(self) -> Iterator[Report]:
        """The reports that have arrived since the last call."""
        with suppress(BlockingIOError):
            while received := self.reports.recv(PACKET):
                self._unparsed += received
                if len(received) < PACKET:
                    break
        while len(self._unparsed) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._unparsed)[0]
            if len(self._unparsed) < end:
                return
            report = self._unparsed[LENGTH.size : end]
            del self._unparsed[:end]
            try:
                ticket, how, payload, seconds, is_leaving = marshal.loads(report)
                task = self.tasks.pop(ticket)
            except (ValueError, EOFError, TypeError, KeyError) as error:  # a job has written to our socket, or runs twice: it forked
                log.error("A child sent a report that nobody can read, and is killed: %r", error)
                self.kill()
                return
            if self.slots is None:
                for following in self.running():
                    following.started_at = time.monotonic()
            self._finished += 1
            self.is_leaving |= is_leaving or self._finished >= self._options.child_max_jobs
            yield task, how, payload, seconds

    # ---- limits and the end

    def is_recording(self, task: Task) -> bool:
        """Whether the job is done and only records its outcome: no time limit applies to that."""
        return bool(self._recording[task.slot])

    def close_inbox(self) -> None:
        """Let the child end when its inbox is empty."""
        with suppress(OSError):  # it is closed already
            self._inbox.shutdown(socket.SHUT_WR)  # other processes, such as RQ's scheduler, may have inherited a copy
        self._inbox.close()

    def kill(self) -> None:
        """Kill the child and its process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def exit_status(self) -> int | None:
        """Its wait status if it has ended, which reaps it; None while it lives."""
        with suppress(ChildProcessError):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return status if pid else None
        return 0


class Pace:
    """The recent duration of jobs. While they are tiny, a child is sent several at once."""

    def __init__(self) -> None:
        self._mean_s = 1.0

    def learn(self, seconds: float) -> None:
        self._mean_s = seconds if seconds > BLOCKED_S else 0.8 * self._mean_s + 0.2 * seconds

    @property
    def depth(self) -> int:
        """How many tasks a child may hold."""
        return max(1, min(MAX_AHEAD, self.within(AHEAD_S)))

    def within(self, seconds: float) -> int:
        """How many tasks a child runs in this time."""
        return int(seconds / max(self._mean_s, 1e-6))


class Children:
    """All children of a worker and the tasks it has taken: a fixed number of ordinary children, and others for I/O-bound jobs on demand."""

    def __init__(self, worker: Any, options: Options, prepare: Callable[[], None], others: Callable[[], set[int]]) -> None:
        self._worker = worker
        self._options = options
        self._prepare = prepare  # runs first in every new child, and closes what it inherits, by `close` too
        self._others = others  # ids of the parent's processes that are not ours to end
        self.children: list[Child] = []
        self._backlog: deque[Task] = deque()  # taken, and not sent to a child yet
        self._expected: dict[str, Task] = {}  # by execution: taken, and not to be sent before the hooks have claimed them
        self._suspects: deque[str] = deque(maxlen=1000)  # jobs that run alone from now on: their child died with several in it
        self._pace = Pace()

    # ---- processes

    def start_missing(self) -> None:
        """Start the ordinary children that are missing."""
        while len(self._ordinary()) < self._options.concurrency:
            self._start(None)

    def _start(self, slots: int | None) -> Child:
        child = Child(self._options, slots)
        child.start(self._worker, self._prepare)
        self.children.append(child)
        return child

    def close(self) -> None:
        """Close this process's copies of the children's sockets."""
        for child in self.children:
            child.close()

    def _ordinary(self) -> list[Child]:
        return [child for child in self.children if child.slots is None and not child.is_leaving]

    def _io_bound(self) -> list[Child]:
        return [child for child in self.children if child.slots is not None and not child.is_leaving]

    def _free_io_bound_slots(self) -> int:
        """Free slots for I/O-bound jobs, counting the children that would be started for them."""
        children = self._io_bound()
        return sum(child.free_slots for child in children) + (self._options.concurrency - len(children)) * self._options.io_bound_per_child

    def report(self) -> dict[str, str]:
        """Fields for the worker's hash: `memory` of the parent in bytes, and `children`, a JSON list of {pid, memory, io_bound, jobs}."""
        children = [
            {
                "pid": child.pid,
                "memory": memory(child.pid),
                "io_bound": child.slots is not None,
                "waits": child.slots is not None,  # the old name of `io_bound`, for one release
                "jobs": [task.job_id for task in child.running()],
            }
            for child in self.children
        ]
        return {"memory": str(memory(os.getpid()) or ""), "children": json.dumps(children, separators=(",", ":"))}

    # ---- tasks in

    def free_slots(self) -> FreeSlots:
        """How many more tasks can be taken."""
        depth = self._pace.depth
        ordinary = sum(max(0, depth - len(child.tasks)) for child in self._ordinary())
        unsent = [*self._backlog, *self._expected.values()]
        io_bound = sum(self._is_io_bound(task) for task in unsent)
        return FreeSlots(ordinary - (len(unsent) - io_bound), self._free_io_bound_slots() - io_bound)

    def need_tasks(self) -> bool:
        """Whether some ordinary child will soon have nothing to do."""
        children = self._ordinary()
        if self._expected:
            return sum(len(child.tasks) for child in children) + len(self._expected) <= len(children) * (self._pace.depth // 2)
        return any(len(child.tasks) <= self._pace.depth // 2 for child in children)

    def are_busy(self) -> bool:
        """Whether every ordinary child has several tiny tasks, enough for half of AHEAD_S."""
        depth = self._pace.depth
        return depth > 1 and all(len(child.tasks) > depth // 2 for child in self._ordinary())

    def expect(self, task: Task) -> None:
        """Keep a slot for a task that `assign` or `withdraw` will name."""
        self._expected[task.execution_id] = task

    def withdraw(self, task: Task) -> None:
        """An expected task does not come."""
        self._expected.pop(task.execution_id, None)

    def withdraw_all(self) -> list[Task]:
        """Remove and return all expected tasks."""
        expected, self._expected = list(self._expected.values()), {}
        return expected

    def assign(self, tasks: list[Task]) -> None:
        """Send the tasks to children with room for them; the others stay in the backlog."""
        for task in tasks:
            self.withdraw(task)
        self._backlog.extend(tasks)
        self._send_backlog()

    def _send_backlog(self) -> None:
        unsent: deque[Task] = deque()
        ordinary, depth = self._ordinary(), self._pace.depth
        for task in self._backlog:
            if self._is_io_bound(task):
                child = self._child_for_io_bound()
            else:
                child = min(ordinary, key=lambda child: len(child.tasks), default=None)
                child = child if child and len(child.tasks) < depth else None
            if child is None or not child.send(task):
                unsent.append(task)
        self._backlog = unsent

    def _child_for_io_bound(self) -> Child | None:
        if not self._free_io_bound_slots():
            return None
        free = [child for child in self._io_bound() if child.free_slots]  # the fullest is chosen: the others may end
        return min(free, key=lambda child: child.free_slots) if free else self._start(self._options.io_bound_per_child)

    def _is_io_bound(self, task: Task) -> bool:
        return task.io_bound and task.is_plain and task.job_id not in self._suspects

    # ---- tasks out

    def outcomes(self) -> Iterator[TaskOutcome]:
        """The tasks that have left their children since the last call. Dead children are reaped and replaced."""
        for child in self.children:
            yield from map(self._outcome, child.read_reports())
        for child, status in self._reap():
            yield from map(self._outcome, child.read_reports())
            self._backlog.extendleft(reversed(child.take_back()))
            yield from self._outcomes_of_dead(child, status)
            child.close()
        for child in self.children:
            if child.is_leaving and not child.tasks:
                child.close_inbox()
        self.start_missing()
        if not self._backlog and any(not child.tasks for child in self._ordinary()):
            self._take_back_blocked(AHEAD_S)  # for the children that have nothing to do
        self._send_backlog()

    def _outcome(self, report: Report) -> TaskOutcome:
        task, how, payload, seconds = report
        self._pace.learn(seconds)
        return TaskOutcome(OUTCOMES[how], task, payload)

    def _reap(self) -> list[tuple[Child, int]]:
        """The children that have died, with their wait status. Ends what they had started, which the kernel has made our child."""
        dead = [(child, status) for child in self.children if (status := child.exit_status()) is not None]
        if dead:
            self.children = [child for child in self.children if all(child is not one for one, _ in dead)]
            end_children(but={child.pid for child in self.children} | self._others())
        return dead

    def _outcomes_of_dead(self, child: Child, status: int) -> Iterator[TaskOutcome]:
        """What ran in a dead child. Several jobs did only in one for I/O-bound jobs: unless we killed it, any of them may be the reason."""
        tasks = list(child.tasks.values())
        was_killed = any(task.killed_because for task in tasks)
        for task in tasks:
            if task.killed_because:
                yield TaskOutcome(task.killed_because, task, describe_status(status), status)
            elif was_killed:
                yield TaskOutcome("innocent", task)
            elif len(tasks) == 1:
                yield TaskOutcome("crashed", task, describe_status(status), status)
            else:
                self._suspects.append(task.job_id)
                yield TaskOutcome("suspect", task, describe_status(status), status)

    def _take_back_blocked(self, seconds: float) -> None:
        """Take back the tasks that wait behind one which has been running for longer than this."""
        for child in self.children:
            if child.slots is None and len(child.tasks) > 1 and time.monotonic() - child.running()[0].started_at > seconds:
                self._backlog.extend(child.take_back())

    # ---- while they run

    @property
    def tasks(self) -> list[Task]:
        """The tasks that children have or are about to get."""
        return [*(task for child in self.children for task in child.tasks.values()), *self._backlog]

    @property
    def is_empty(self) -> bool:
        return not self._backlog and not self._expected and not any(child.tasks for child in self.children)

    def running(self) -> list[tuple[Child, Task]]:
        return [(child, task) for child in self.children for task in child.running()]

    def enforce_limits(self) -> list[Task]:
        """Kill what is past its limit. Returns the tasks that no child will start soon: another worker may."""
        for child, task in self.running():
            late = time.monotonic() - task.started_at - task.limit
            if task.limit > 0 and late > LATE_S and not task.killed_because and not child.is_recording(task):
                self._kill(child, task, "timeout")
            if task.stop_deadline and time.monotonic() > task.stop_deadline and not task.killed_because:
                self._kill(child, task, "stopped")
        self._take_back_blocked(BLOCKED_S)
        self._send_backlog()
        return [] if any(self._is_io_bound(task) for task in self._backlog) else self._clear_backlog(but=self._begun_soon())

    def _begun_soon(self) -> int:
        """How many tasks of the backlog our children are expected to begin within BLOCKED_S."""
        freed = [child for child in self._ordinary() if not any(time.monotonic() - one.started_at > BLOCKED_S for one in child.running())]
        return len(freed) * self._pace.within(BLOCKED_S)

    def _clear_backlog(self, but: int = 0) -> list[Task]:
        """Remove and return the tasks of the backlog, but for so many that come first."""
        tasks = list(self._backlog)
        self._backlog = deque(tasks[:but])
        return tasks[but:]

    def _kill(self, child: Child, task: Task, why: str) -> None:
        task.killed_because = why
        child.kill()

    def kill_running(self, why: str) -> None:
        for child, task in self.running():
            self._kill(child, task, why)

    def kill_taken(self, task: Task) -> None:
        """End a task that is no longer ours: it was stopped, or runs elsewhere."""
        for child, running in self.running():
            if running is task and not child.is_recording(task):
                self._kill(child, task, "taken")

    def stop(self, wanted_id: str) -> list[Task]:
        """Stop the job or execution with this id. Returns its tasks that no child had started.

        An ordinary child is killed. In a child for I/O-bound jobs, the job alone is stopped, and has STOPPING_S to end.
        """
        for child, task in self.running():
            if wanted_id in (task.job_id, task.execution_id):
                if child.slots is None:
                    self._kill(child, task, "stopped")
                else:
                    task.stop_deadline = time.monotonic() + STOPPING_S
                    child.request_stop(task)
        for task in self._expected.values():
            if wanted_id in (task.job_id, task.execution_id):
                task.killed_because = "stopped"
        self._take_back_blocked(0)
        unstarted = [task for task in self._backlog if wanted_id in (task.job_id, task.execution_id)]
        self._backlog = deque(task for task in self._backlog if task not in unstarted)
        self._send_backlog()
        return unstarted

    def take_back_unstarted(self) -> list[Task]:
        """Remove and return every task that no child has started, in order."""
        for child in self.children:
            if child.slots is None:
                self._backlog.extend(child.take_back())
        return self._clear_backlog()
