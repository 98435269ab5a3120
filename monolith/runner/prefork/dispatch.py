"""Who runs what: tasks that were taken go to children, and come out of them one way or another."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from monolith.runner.prefork.child import DONE, FAILED, HANDLED, STOPPED
from monolith.runner.prefork.children import Child, Children, Report, signal_of
from monolith.runner.prefork.redis_script import FreeSlots
from monolith.runner.prefork.task import Task

AHEAD_S = 0.02  # so much work is given to a child beyond what it runs
MOST_AHEAD = 16
STUCK_S = 0.25  # what waits so long behind a running job goes elsewhere
LATE_S = 1.0  # the child itself ends a job at its limit; so much later the parent ends the child
STOPPING_S = 2.0  # what a waiting job gets to hear that it is stopped, before its child is ended

OUTCOMES = {DONE: "done", FAILED: "failed", HANDLED: "handled", STOPPED: "stopped"}


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """How a task left its child. `done`, `failed` and `handled` are the child's word; `stopped`, `timeout`, `shutdown` and
    `taken` are why we killed it; `crashed` nobody wanted; `innocent` was beside one of those; `suspect` may be the one that did it."""

    how: str
    task: Task
    payload: bytes | str = b""
    status: int = 0


class Pace:
    """How long jobs take of late. While they are tiny, a child is given several at once."""

    def __init__(self) -> None:
        self._mean_s = 1.0

    def learn(self, seconds: float) -> None:
        self._mean_s = seconds if seconds > STUCK_S else 0.8 * self._mean_s + 0.2 * seconds

    @property
    def depth(self) -> int:
        return max(1, min(MOST_AHEAD, int(AHEAD_S / max(self._mean_s, 1e-6))))


class Dispatcher:
    """The tasks of a worker and its children."""

    def __init__(self, crew: Children) -> None:
        self.crew = crew
        self._spare: deque[Task] = deque()  # taken, and given to nobody yet
        self._suspects: deque[str] = deque(maxlen=1000)  # jobs that run alone from now on: their child died with several in it
        self._pace = Pace()

    # ---- in

    def room(self) -> FreeSlots:
        depth = self._pace.depth
        free = sum(max(0, depth - len(child.tasks)) for child in self.crew.ordinary())
        waiting = sum(self._waits(task) for task in self._spare)
        return FreeSlots(free - (len(self._spare) - waiting), self.crew.waiting_room() - waiting)

    def is_low(self) -> bool:
        """Whether some ordinary child will soon have nothing to do."""
        return any(len(child.tasks) <= self._pace.depth // 2 for child in self.crew.ordinary())

    def take_in(self, tasks: list[Task]) -> None:
        self._spare.extend(tasks)
        self._give()

    def _give(self) -> None:
        left: deque[Task] = deque()
        while self._spare:
            task = self._spare.popleft()
            child = self._place_for(task)
            if child is None or not child.give(task):
                left.append(task)
        self._spare = left

    def _place_for(self, task: Task) -> Child | None:
        if self._waits(task):
            return self.crew.lane_for() if self.crew.waiting_room() else None
        child = min(self.crew.ordinary(), key=lambda child: len(child.tasks), default=None)
        return child if child and len(child.tasks) < self._pace.depth else None

    def _waits(self, task: Task) -> bool:
        return task.waits and task.is_plain and task.job_id not in self._suspects

    # ---- out

    def outcomes(self) -> Iterator[TaskOutcome]:
        """What has come out of the children since; the dead ones are buried and replaced."""
        for child in self.crew.children:
            for report in child.hear():
                yield self._outcome(report)
        for child, status in self.crew.bury():
            yield from (self._outcome(report) for report in child.hear())
            self._spare.extendleft(reversed(child.take_back()))
            yield from self._victims(child, status)
        self._let_go()
        self._share()
        self._give()

    def _outcome(self, report: Report) -> TaskOutcome:
        task, how, payload, seconds = report
        self._pace.learn(seconds)
        return TaskOutcome(OUTCOMES[how], task, payload)

    def _victims(self, child: Child, status: int) -> Iterator[TaskOutcome]:
        """What ran in a dead child. Several did only in a waiting one: unless we killed it, each of them may have done it."""
        tasks = list(child.tasks.values())
        is_ours = any(task.killed_because for task in tasks)
        for task in tasks:
            if task.killed_because:
                yield TaskOutcome(task.killed_because, task, signal_of(status), status)
            elif is_ours:
                yield TaskOutcome("innocent", task)
            elif len(tasks) == 1:
                yield TaskOutcome("crashed", task, signal_of(status), status)
            else:
                self._suspects.append(task.job_id)
                yield TaskOutcome("suspect", task, signal_of(status), status)

    def _let_go(self) -> None:
        for child in self.crew.children:
            if child.is_leaving and not child.tasks:
                child.dismiss()
        self.crew.fill()

    def _share(self) -> None:
        """A child with nothing to do gets what waits behind another's job that takes longer than was thought."""
        idle = [child for child in self.crew.ordinary() if not child.tasks]
        if idle and not self._spare:
            for child in self._stuck(AHEAD_S):
                self._spare.extend(child.take_back())

    def _stuck(self, seconds: float) -> list[Child]:
        """The children that have been at one job for so long while others wait behind it."""
        behind = [child for child in self.crew.children if child.lanes is None and len(child.tasks) > 1]
        return [child for child in behind if time.monotonic() - child.running()[0].began > seconds]

    # ---- while they run

    @property
    def tasks(self) -> list[Task]:
        return [*self.crew.tasks(), *self._spare]

    @property
    def is_empty(self) -> bool:
        return not self._spare and not any(child.tasks for child in self.crew.children)

    def running(self) -> list[tuple[Child, Task]]:
        return [(child, task) for child in self.crew.children for task in child.running()]

    def watch(self) -> list[Task]:
        """Kill what is past its limit. Gives what no child will begin soon: another worker may have one that does."""
        for child, task in self.running():
            late = time.monotonic() - task.began - task.limit
            if task.limit > 0 and late > LATE_S and not task.killed_because and not child.is_writing_down(task):
                self.kill(child, task, "timeout")
            if task.stopped_by and time.monotonic() > task.stopped_by and not task.killed_because:
                self.kill(child, task, "stopped")
        for child in self._stuck(STUCK_S):
            self._spare.extend(child.take_back())
        self._give()
        return [] if any(self._waits(task) for task in self._spare) else self._give_up()

    def _give_up(self) -> list[Task]:
        given_up, self._spare = list(self._spare), deque()
        return given_up

    def kill(self, child: Child, task: Task, why: str) -> None:
        task.killed_because = why
        child.kill()

    def stop(self, is_it: str) -> list[Task]:
        """Stop the job or execution of this id. Gives those that no child had begun."""
        for child, task in self.running():
            if is_it in (task.job_id, task.execution_id):
                self._stop(child, task)
        for child in self._stuck(0):
            self._spare.extend(child.take_back())
        unbegun = [task for task in self._spare if is_it in (task.job_id, task.execution_id)]
        self._spare = deque(task for task in self._spare if task not in unbegun)
        self._give()
        return unbegun

    def _stop(self, child: Child, task: Task) -> None:
        """An ordinary child is killed. In a waiting one the job alone is told, and then has STOPPING_S to end."""
        if child.lanes is None:
            self.kill(child, task, "stopped")
        else:
            task.stopped_by = time.monotonic() + STOPPING_S
            child.stop_lane(task)

    def return_unbegun(self) -> list[Task]:
        """What no child has begun, in its order; nothing of it will be."""
        for child in self.crew.children:
            if child.lanes is None:
                self._spare.extend(child.take_back())
        return self._give_up()

    def kill_running(self, why: str) -> None:
        for child, task in self.running():
            self.kill(child, task, why)
