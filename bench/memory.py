"""`manage.py bench memory`: what an idle worker with the application loaded holds, beside stock RQ for as many jobs at once."""

from __future__ import annotations

from functools import partial

from bench import measuring, tables
from bench.loads import RqJobs
from bench.rig import Contender, Rig, Say, concurrent
from bench.work import noop

APPLICATION = ("--config", "bench.application")


def measure(rig: Rig, passes: int, concurrency: int, say: Say) -> None:
    load = RqJobs(rig.redis, noop)
    contenders = [
        Contender(f"stock rq worker-pool, {concurrency} workers", rig.pool(concurrency, *APPLICATION), load, workers=concurrency),
        Contender(f"our engine, {concurrency} children", rig.engine(*APPLICATION), load, concurrent(concurrency)),
    ]
    contenders = rig.with_ledger(contenders, concurrency)
    alone = Contender("stock rq worker, 1 concurrent job", rig.stock(*APPLICATION), load)
    at_once = [*((one, concurrency) for one in contenders), (alone, 1)]
    rows = tables.in_turns(passes, {one.name: partial(_hold, rig, one, number) for one, number in at_once})
    for line in tables.lines("Memory of an idle worker with the application loaded", rows):
        say(line)


def _hold(rig: Rig, contender: Contender, at_once: int) -> tables.Figures:
    with rig.idle(contender, first_jobs=5 * at_once) as worker:
        held = measuring.pss_mb(worker.pid)
        return {"PSS MB": held, "PSS MB per concurrent job": held / at_once, "processes": len(measuring.tree(worker.pid))}
