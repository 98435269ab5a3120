"""`manage.py bench idle`: what a worker that has nothing to do costs, beside stock RQ."""

from __future__ import annotations

import time
from functools import partial

from bench import measuring, tables
from bench.loads import RqJobs
from bench.rig import Contender, Rig, Say, concurrent
from bench.work import noop


def measure(rig: Rig, seconds: float, passes: int, concurrency: int, say: Say) -> None:
    load = RqJobs(rig.redis, noop)
    contenders = [
        Contender("stock rq worker", rig.stock(), load),
        Contender(f"stock rq worker-pool, {concurrency} workers", rig.pool(concurrency), load, workers=concurrency),
        Contender(f"our engine, {concurrency} children", rig.engine(), load, concurrent(concurrency)),
    ]
    contenders = rig.with_ledger(contenders, concurrency)
    rows = tables.in_turns(passes, {one.name: partial(_rest, rig, one, seconds) for one in contenders})
    for line in tables.lines(f"An idle worker over {seconds:g} s", rows):
        say(line)


def _rest(rig: Rig, contender: Contender, seconds: float) -> tables.Figures:
    with rig.idle(contender) as worker:
        before = worker.usage()
        time.sleep(seconds)
        spent = worker.usage().since(before)
        return {
            "Redis commands/s": spent.commands / spent.at,
            "CPU %": spent.cpu_s / spent.at * 100,
            "connections": worker.connections(),
            "processes": len(measuring.tree(worker.pid)),
        }
