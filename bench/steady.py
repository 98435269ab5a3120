"""A steady load of `analyze`, as when many people submit all day; then more and more, until something gives way."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import func, select

from bench import loads, paced, rig, submissions
from bench.measuring import cpu_s, pss_mb, until
from monolith.config import settings
from monolith.db.engine import read_now, read_session
from monolith.db.models import OVER, Job
from monolith.runner.queue import rq_queues
from monolith.server import child_processes
from monolith.server.child_processes import ChildProcess
from monolith.server.run_all import MANAGE

MOST_MS = 100.0  # p99 of a submission
MOST_WAITING_S = 10.0  # p99 from being submitted to being started
MOST_GROWTH = 1.25  # of memory, from a quarter of the time on
MORE = 1.5
LOOK_S = 2.0
WARM_UP_PER_MINUTE, WARM_UP_S = 600, 4.0
STARTING_S = 60.0
DRAINING_S = 300.0
ENDING_S = 30.0
KINDS = ("web", "worker", "clock")
WORDS = (
    "It is fast, free and well documented, and many teams use it every day.",
    "It is slow with large files and hard to install on old systems.",
)

Say = Callable[[str], object]


@dataclass(frozen=True)
class Plan:
    seconds: float
    per_minute: int
    concurrency: int
    steps: int
    step_seconds: float


@dataclass
class Look:
    """What was seen at one moment: jobs that wait, and megabytes by process."""

    at: float
    waiting: int
    memory: dict[str, float]


@dataclass
class Phase:
    """One load for some time, and what became of it."""

    per_minute: float
    seconds: float
    answers: list[paced.Answer] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)  # per cent of one core
    drained_s: float = 0.0

    @property
    def errors(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers if answer.status != 202)

    def what_gave_way(self) -> list[str]:
        """Empty where the load was held."""
        late, waits = at(0.99, [answer.ms for answer in self.answers]), at(0.99, self.waits)
        found = [
            f"{count} {'submission' if count == 1 else 'submissions'} got {status or 'no response'}"
            for status, count in self.errors.items()
        ]
        found += [f"responses: p99 {late:.0f} ms"] if late > MOST_MS else []
        return found + ([f"workers: p99 waiting time {waits:.1f} s"] if waits > MOST_WAITING_S else [])

    def grown(self) -> list[str]:
        """The processes whose memory was not flat: more at the end than after a quarter of the time."""
        after, end = self.looks[len(self.looks) // 4].memory, self.looks[-1].memory
        return [
            f"{name}: memory grew from {after[name]:.0f} MB to {end[name]:.0f} MB"
            for name in after
            if end[name] > after[name] * MOST_GROWTH
        ]


def at(share: float, values: list[float]) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def measure(plan: Plan, say: Say) -> bool:
    """Whether the steady load was held. Raises `BadSetting` for a database or a Redis in which something is."""
    with rig.empty_redis(), _running(plan) as stand:
        say(f"{plan.per_minute:,} submissions per minute for {plan.seconds / 60:g} min, on {settings().database_url.partition(':')[0]}")
        steady = stand.hold(plan.per_minute, plan.seconds)
        wrong = [*steady.what_gave_way(), *steady.grown()]
        for line in (*_table([steady]), *_memory(steady), f"Sustained: {'no, ' + '; '.join(wrong) if wrong else 'yes'}."):
            say(line)
        _look_for_the_limit(plan, stand, say)
    return not wrong


def _look_for_the_limit(plan: Plan, stand: Stand, say: Say) -> None:
    phases: list[Phase] = []
    for step in range(1, plan.steps + 1):
        phases.append(stand.hold(plan.per_minute * MORE**step, plan.step_seconds))
        if phases[-1].what_gave_way():
            break
    if phases:
        gave_way = "; ".join(phases[-1].what_gave_way()) or "nothing"
        for line in (*_table(phases), f"Limits reached at {phases[-1].per_minute:.0f} per minute: {gave_way}."):
            say(line)


# ---- what is measured


@dataclass
class Stand:
    """An installation that runs: web, one worker and a clock."""

    port: int
    token: str
    children: dict[str, ChildProcess]

    def hold(self, per_minute: float, seconds: float) -> Phase:
        """Submit so many for so long, then wait until all is done."""
        phase, over = Phase(per_minute, seconds), threading.Event()
        began, used = read_now(), self._cpu_s()
        watch = threading.Thread(target=self._watch, args=(phase, over))
        watch.start()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        phase.answers = paced.send(self.port, "/api/v1/jobs", headers, _body, per_minute / 60, seconds)
        over.set()
        watch.join()
        phase.cpu = {name: 100 * (spent - used[name]) / seconds for name, spent in self._cpu_s().items()}
        ended_at = time.monotonic()
        until(lambda: _live() == 0, DRAINING_S, "finishing the jobs")
        phase.drained_s = time.monotonic() - ended_at
        phase.waits = _waits(began)
        return phase

    def _watch(self, phase: Phase, over: threading.Event) -> None:
        while True:
            memory = {name: pss_mb(child.pid) for name, child in self.children.items()}
            phase.looks.append(Look(time.monotonic(), _waiting(), memory))
            if over.wait(LOOK_S):
                return

    def _cpu_s(self) -> dict[str, float]:
        return {name: cpu_s(child.pid) for name, child in self.children.items()}


def _body(number: int) -> bytes:
    """A text of 1 to 20 kB, different each time."""
    text = f"Tool number {number} {time.time()}. " + " ".join(WORDS) * (8 + number * 7 % 140)
    return json.dumps({"type": "analyze", "params": {"text": text[:20_000]}}).encode()


def _live() -> int:
    with read_session() as session:
        return session.scalar(select(func.count()).where(Job.status.not_in(OVER))) or 0


def _waiting() -> int:
    with read_session() as session:
        return session.scalar(select(func.count()).where(Job.status == "queued")) or 0


def _waits(since: float) -> list[float]:
    """How long each job waited that was submitted since then."""
    with read_session() as session:
        return list(session.scalars(select(Job.started_at - Job.created_at).where(Job.created_at >= since, Job.started_at.is_not(None))))


@contextmanager
def _running(plan: Plan) -> Iterator[Stand]:
    """Web, one worker and a clock with the settings they have by default, but for limits that are not what is measured."""
    submissions.require_empty()
    port, token = rig.free_port(), submissions.new_token()
    own = {
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "WORKER_CONCURRENCY": str(plan.concurrency),
        "REQUEST_RATE": "0",
        "MAX_QUEUED": "0",
        "MAX_QUEUED_PER_USER": "0",
    }
    children = {name: ChildProcess(name, [sys.executable, str(MANAGE), name], {**os.environ, **own}) for name in KINDS}
    for child in children.values():
        child.start()
    try:
        submissions.wait_for(port, children["web"])
        until(lambda: set(rq_queues.names()) <= rq_queues.listened(), STARTING_S, "starting a worker")
        stand = Stand(port, token, children)
        stand.hold(WARM_UP_PER_MINUTE, WARM_UP_S)
        yield stand
    finally:
        child_processes.end(children.values(), ENDING_S)
        if settings().database_url.startswith("postgresql"):
            loads.LedgerJobs().clear()


# ---- what is told


HEADINGS = ("submissions/min", "duration s", "errors", "p50 ms", "p99 ms", "waiting p50 s", "waiting p99 s", "max waiting", "done after s")


def _table(phases: list[Phase]) -> Iterator[str]:
    yield f"\n| {' | '.join([*HEADINGS, 'CPU % of ' + ', '.join(KINDS)])} |"
    yield f"|{' --- |' * (len(HEADINGS) + 1)}"
    for phase in phases:
        times = [answer.ms for answer in phase.answers]
        cells = [f"{phase.per_minute:.0f}", f"{phase.seconds:.0f}", str(sum(phase.errors.values()))]
        cells += [f"{at(share, times):.0f}" for share in (0.5, 0.99)] + [f"{at(share, phase.waits):.2f}" for share in (0.5, 0.99)]
        cells += [str(max(look.waiting for look in phase.looks)), f"{phase.drained_s:.1f}"]
        yield f"| {' | '.join([*cells, ', '.join(f'{phase.cpu[name]:.0f}' for name in KINDS)])} |"
    yield ""


def _memory(phase: Phase) -> Iterator[str]:
    """Each process at the start, after each quarter, and at its most."""
    yield "| memory, PSS MB | start | after 1/4 | after 1/2 | after 3/4 | end | max |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name in KINDS:
        seen = [look.memory[name] for look in phase.looks]
        quarters = [seen[min(len(seen) * quarter // 4, len(seen) - 1)] for quarter in range(5)]
        yield f"| {name} | {' | '.join(f'{one:.0f}' for one in (*quarters, max(seen)))} |"
    yield ""
