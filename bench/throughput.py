"""`manage.py bench worker`: how many jobs a second a worker does, and what one costs, beside stock RQ."""

from __future__ import annotations

import time
from functools import partial

from bench import tables
from bench.loads import IO_BOUND, RqJobs
from bench.measuring import Peak, Usage
from bench.rig import RUNNING_S, Contender, Rig, Say, concurrent
from bench.work import nap, noop

STOCK_JOBS = 200  # of 20 ms each, or more
POOL_JOBS = 2000
SIMPLE = ("--worker-class", "rq.SimpleWorker")
POOL_AT_MOST = 45  # workers of a stock pool within 512 MB
SETTLING_S = 30.0
CHILDREN, WAITING = 4, 50  # what we hold in less


def measure(rig: Rig, jobs: int, passes: int, concurrency: int, say: Say) -> None:
    for title, contenders in (
        ("Jobs that do nothing", _doing_nothing(rig, jobs, concurrency)),
        ("Jobs that wait 50 ms, as many at once as fit in 512 MB", _waiting(rig, jobs)),
    ):
        rows = tables.in_turns(passes, {one.name: partial(_drain, rig, one) for one in contenders})
        for line in tables.lines(title, rows):
            say(line)


def _doing_nothing(rig: Rig, jobs: int, concurrency: int) -> list[Contender]:
    load = RqJobs(rig.redis, noop)
    contenders = [
        Contender("stock rq worker", rig.stock(), load, jobs=min(jobs, STOCK_JOBS)),
        Contender("stock rq worker-pool, 2 SimpleWorkers", rig.pool(2, *SIMPLE), load, jobs=min(jobs, POOL_JOBS), workers=2),
        Contender(f"our engine, {concurrency} children", rig.engine(), load, concurrent(concurrency), jobs),
    ]
    return rig.with_ledger(contenders, concurrency, jobs)


def _waiting(rig: Rig, jobs: int) -> list[Contender]:
    fewer = min(jobs, POOL_JOBS)
    workers = min(POOL_AT_MOST, fewer)
    pool = rig.pool(workers, *SIMPLE)
    env = concurrent(CHILDREN, WAITING)
    return [
        Contender(f"stock rq worker-pool, {workers} SimpleWorkers", pool, RqJobs(rig.redis, nap), jobs=fewer, workers=workers),
        Contender(f"our engine, {CHILDREN} children x {WAITING}", rig.engine(), RqJobs(rig.redis, nap, IO_BOUND), env, jobs),
    ]


def _drain(rig: Rig, contender: Contender) -> tables.Figures:
    """Let an idle worker do many jobs that are there at once, and tell what it took until the last was put down as done."""
    with rig.idle(contender) as worker:
        already = contender.load.done()
        with worker.frozen():
            contender.load.submit(contender.jobs)
            before, released_at = worker.usage(), time.time()
        peak = Peak(worker.pid)
        worker.wait(lambda: rig.records.count() >= contender.jobs, RUNNING_S, peak)
        worker.wait(lambda: contender.load.done() - already >= contender.jobs, SETTLING_S)
        spent = worker.usage().since(before)
    lasted = max(one.ended_at for one in rig.records.read()) - released_at
    return {"jobs/s": contender.jobs / lasted, **_per_job(spent, contender.jobs), "peak PSS MB": peak.mb}


def _per_job(spent: Usage, jobs: int) -> tables.Figures:
    return {
        "CPU ms per job": spent.cpu_s / jobs * 1000,
        "Redis CPU ms per job": spent.redis_cpu_s / jobs * 1000,
        "Redis commands per job": spent.commands / jobs,
        "round trips per job": spent.round_trips / jobs,
    }
