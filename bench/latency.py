"""`manage.py bench latency`: how long after its submission an idle worker begins a job, beside stock RQ."""

from __future__ import annotations

import statistics
import time
from functools import partial

from bench import tables
from bench.loads import RqJobs
from bench.rig import RUNNING_S, Contender, Rig, Say, concurrent
from bench.work import noop

GAP_S = 0.02
STOCK_GAP_S = 0.1  # a stock worker needs 20 ms a job: any faster, and the figure is a queue's


def measure(rig: Rig, jobs: int, passes: int, concurrency: int, say: Say) -> None:
    load = RqJobs(rig.redis, noop)
    contenders = [
        Contender("stock rq worker", rig.stock(), load, jobs=jobs, gap_s=STOCK_GAP_S),
        Contender("our engine", rig.engine(), load, concurrent(concurrency), jobs, GAP_S),
    ]
    contenders = rig.with_ledger(contenders, concurrency, jobs, GAP_S)
    rows = tables.in_turns(passes, {f"{one.name}, {one.gap_s * 1000:g} ms apart": partial(_pick_up, rig, one) for one in contenders})
    for line in tables.lines("From submission to start, on an idle worker", rows):
        say(line)


def _pick_up(rig: Rig, contender: Contender) -> tables.Figures:
    with rig.idle(contender) as worker:
        due_at = time.monotonic()
        for _ in range(contender.jobs):
            contender.load.submit(1)
            due_at += contender.gap_s
            time.sleep(max(0.0, due_at - time.monotonic()))
        worker.wait(lambda: rig.records.count() >= contender.jobs, RUNNING_S)
    waits = [(one.began_at - one.submitted_at) * 1000 for one in rig.records.read()]
    percentiles = statistics.quantiles(waits, n=100, method="inclusive")
    return {"p50 ms": percentiles[49], "p99 ms": percentiles[98]}
