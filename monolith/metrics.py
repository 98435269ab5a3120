"""`GET /metrics` for Prometheus: the ledger, the queues and the clock, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from redis import RedisError

from monolith.runner import accounting, clock, queues, statistics
from monolith.runner.accounting import Balance
from monolith.security import require_admin

blueprint = Blueprint("metrics", __name__)
blueprint.before_request(require_admin)


@blueprint.get("/metrics")
def metrics() -> Response:
    """For admins, by session or token."""
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


class Ledger(Collector):
    """Holds nothing itself: several web processes then say the same."""

    def collect(self) -> Iterator[Metric]:
        with accounting.snapshot() as session:
            balance = accounting.balance_in(session)
            oldest = statistics.oldest_waiting(session)
            is_ticking = clock.is_ticking(session)
        yield from _balance(balance)
        yield _oldest(oldest)
        yield GaugeMetricFamily("intray_clock_up", "Whether a clock leads.", int(is_ticking))
        yield from _redis()


def _balance(balance: Balance) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("intray_jobs", "Jobs in the ledger.", labels=("queue", "type", "status"))
    for kind, count in sorted(balance.counts.items()):
        jobs.add_metric(kind, count)
    yield jobs
    yield CounterMetricFamily("intray_jobs_accepted", "Jobs ever accepted.", balance.accepted)
    yield CounterMetricFamily("intray_jobs_pruned", "Jobs deleted, by age, number or hand.", balance.pruned)
    yield GaugeMetricFamily(
        "intray_ledger_imbalance", "Accepted jobs that are in no status and were not pruned. 0, or an alert.", balance.imbalance
    )


def _oldest(waited: dict[tuple[str, str], float]) -> Metric:
    family = GaugeMetricFamily("intray_oldest_waiting_seconds", "How long the oldest queued job has waited.", labels=("queue",))
    for queue in sorted({queue for queue, _ in waited}):
        family.add_metric((queue,), max(seconds for (name, _), seconds in waited.items() if name == queue))
    return family


def _redis() -> Iterator[Metric]:
    """No number of messages while Redis is away: 0 would be a lie."""
    try:
        lengths = queues.lengths(queues.names())
    except RedisError:
        lengths = None
    yield GaugeMetricFamily("intray_redis_up", "Whether Redis answers.", int(lengths is not None))
    if lengths is not None:
        messages = GaugeMetricFamily("intray_messages", "Messages that wait in Redis.", labels=("queue",))
        for name, count in lengths.items():
            messages.add_metric((name,), count)
        yield messages


registry = CollectorRegistry()
registry.register(Ledger())
