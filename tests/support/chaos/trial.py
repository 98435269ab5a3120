"""One trial: a fleet under load and faults, then quiet, then the oracle. `manage.py chaos` runs it long, `test_chaos.py` short."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import command_server
from tests.support.chaos.faults import Faults
from tests.support.chaos.fleet import EXIT_S, SKEW_S, Fleet, new_fleet
from tests.support.chaos.ledger import Ledger, Pages, runs_in
from tests.support.chaos.load import Load
from tests.support.chaos.oracle import Verdict, judge

STUCK_S = 60.0  # a job to which nothing happens for so long after the last fault is stuck
MOST_SHOWN = 5


@dataclass(frozen=True)
class Plan:
    """How one trial goes; `short` freezes and keeps away for 3 s at most instead of 20."""

    database: str
    seed: int
    seconds: float
    jobs: int
    short: bool = False


@dataclass
class Report:
    """What a trial saw. `words` is for people, `wrong` is empty when every promise held."""

    plan: Plan
    wrong: dict[str, list[str]]
    words: list[str]
    jobs: int
    strikes: dict[str, int]

    def __str__(self) -> str:
        return "\n".join(self.words)


def run(plan: Plan, say: Callable[[str], None] = lambda line: None) -> Report:
    """Run the trial; its processes are gone when it returns, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="intray-chaos-") as name:
        folder = Path(name)
        workers = 2 if plan.short else 4
        grace = "2" if plan.short else "20"
        with new_fleet(folder, plan.database, workers=workers, cramped="worker-1", SHUTDOWN_GRACE=grace) as fleet:
            why_not = "SQLite" if fleet.cluster is None else "libfaketime is not installed"
            say(f"{plan}; {f'the clock of {fleet.skewed} is {SKEW_S} s ahead' if fleet.skewed else f'no clock is skewed: {why_not}'}")
            return _under_load(plan, fleet, folder)


def _under_load(plan: Plan, fleet: Fleet, folder: Path) -> Report:
    ledger = Ledger(fleet.database_url)
    most_live = 40 if plan.short else max(150, plan.jobs // 5)  # of a hundred, most wait for workers that are dead or frozen
    load = Load(fleet.intray.base_url, fleet.token, plan.seed, plan.jobs, plan.seconds * 0.9, ledger.live, most_live)
    faults = Faults(fleet, plan.seed, plan.seconds, **(_SHORT if plan.short else {}))
    submitter = threading.Thread(target=load.run)
    submitter.start()
    faults.run()
    quiet_at = time.time()
    load.is_over.set()
    submitter.join()
    is_stuck = _drain(ledger, quiet_at)
    accounts = command_server.run(("ledger",), fleet.intray.env)
    pages = ledger.read()
    ledger.close()
    left = fleet.stop()
    verdict = judge(pages, load.accepted, runs_in(folder / "runs"))
    for kind, offenders in (("stuck", is_stuck), ("left over", left)):
        verdict.add(kind, *offenders)
    if fleet.slowest_exit > EXIT_S:
        verdict.add(f"ended {fleet.slowest_exit:.1f} s after SIGTERM")
    if accounts.returncode:
        verdict.add(f"`manage.py ledger` says: {accounts.stdout} {accounts.stderr}")
    return _report(plan, faults, load, verdict, pages, runs_in(folder / "runs"), quiet_at, fleet)


_SHORT: dict[str, Any] = {"long_s": 3.0, "silent_s": 0.0, "rests": (0.6, 1.4)}


def _drain(ledger: Ledger, quiet_at: float) -> list[str]:
    """Wait until everything is over; the jobs to which nothing happened for STUCK_S, if that comes first."""
    while ledger.live():
        pages = ledger.read()
        for job_id, job in pages.jobs.items():
            last = max(quiet_at, pages.events[job_id][-1][0])
            if not job.is_over and time.time() - last > STUCK_S:
                return [one for one, row in pages.jobs.items() if not row.is_over]
        time.sleep(0.5)
    return []


def _report(
    plan: Plan, faults: Faults, load: Load, verdict: Verdict, pages: Pages, runs: Counter[tuple[str, int]], quiet_at: float, fleet: Fleet
) -> Report:
    wrong = {kind: offenders for kind, offenders in verdict.wrong.items() if offenders or not kind.startswith(("stuck", "left"))}
    latencies = sorted(job.ended_at - job.created_at for job in pages.jobs.values() if job.ended_at)
    waited = max((job.ended_at - quiet_at for job in pages.jobs.values() if job.ended_at), default=0)
    crashes = Counter(note for events in pages.events.values() for _, name, _, note in events if name == "interrupted")
    by_kind: Counter[str] = Counter()
    for note, times in crashes.items():
        by_kind["silent" if "stopped reporting" in note else note] += times
    words = [
        f"{plan.database}, seed {plan.seed}: {len(pages.jobs)} jobs ({len(load.accepted)} accepted and {sum(pages.follow_ups.values())} "
        f"that follow), {sum(faults.counts.values())} faults in {plan.seconds:.0f} s, {fleet.kills} kills of workers and children",
        f"faults: {json.dumps(faults.counts)}",
        f"statuses: {json.dumps(Counter(job.status for job in pages.jobs.values()))}; runs {sum(runs.values())}, "
        f"runs again {sum(runs.values()) - len({job for job, _ in runs})}; interrupted: {json.dumps(by_kind)}",
        f"latency p50 {_at(latencies, 0.5):.1f} s, p99 {_at(latencies, 0.99):.1f} s, max {_at(latencies, 1):.1f} s; "
        f"all over {waited:.1f} s after the last fault; slowest exit {fleet.slowest_exit:.1f} s",
        f"submissions in doubt {load.doubts}, refused {json.dumps(load.refusals)}; poison by our kills: {len(verdict.poisoned_by_us)}",
        f"wrong: {json.dumps({kind: len(offenders) for kind, offenders in wrong.items()})}",
    ]
    if wrong:
        words += [f"seed {plan.seed}, faults:", *(f"  {at:6.1f} {what}" for at, what in faults.timeline), *_histories(wrong, pages)]
    return Report(plan, wrong, words, len(pages.jobs), faults.counts)


def _at(values: list[float], share: float) -> float:
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def _histories(wrong: dict[str, list[str]], pages: Pages) -> list[str]:
    words = []
    for kind, offenders in wrong.items():
        words.append(f"{kind}: {', '.join(offenders[:MOST_SHOWN])}")
        for job_id in [one for one in offenders[:MOST_SHOWN] if one in pages.jobs]:
            job = pages.jobs[job_id]
            words.append(
                f"  {job.id} {job.type} {job.status} attempt {job.attempt} claims {job.claims} crashes {job.crashes} {job.error_message}"
            )
            words += [f"    {at:.1f} {name} {attempt} {note[:200]}" for at, name, attempt, note in pages.events[job_id]]
    return words
