"""For the peers of bench-peers.json: stock RQ's producer, whose jobs say that they wait. docs/performance.md says how it is run."""

from __future__ import annotations

from p_rq import BULK, KINDS
from p_rq import Producer as StockProducer
from rq import Queue

__all__ = ["BULK", "Producer"]
BATCH = 500
IO_BOUND = {"io_bound": True}


class Producer(StockProducer):
    def send(self, kind: str, argument: float) -> None:
        self.q.enqueue(KINDS[kind], argument, meta=IO_BOUND)

    def send_bulk(self, kind: str, arguments: list[float]) -> None:
        for begun in range(0, len(arguments), BATCH):
            self.q.enqueue_many([Queue.prepare_data(KINDS[kind], (one,), meta=IO_BOUND) for one in arguments[begun : begun + BATCH]])
