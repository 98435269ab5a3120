"""`GET /metrics` for Prometheus: the ledger, the queues and the clock, read on each request.

It keeps no numbers itself, so several web processes report the same, and nothing is lost when one ends.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterable, Iterator

from flask import Blueprint, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from redis import RedisError

from monolith.config import settings
from monolith.runner.ledger import balance, clock_lease, counts, pauses
from monolith.runner.ledger.balance import Balance
from monolith.runner.monitoring import alert_rules, metrics_data, workers
from monolith.runner.monitoring.alerts import CurrentAlert, current_alerts
from monolith.runner.monitoring.workers import WorkerInfo
from monolith.runner.queue import rq_queues
from monolith.web.security import bearer, require_admin, require_user

blueprint = Blueprint("metrics", __name__)


@blueprint.before_request
def _require_reader() -> None:
    """Allow METRICS_TOKEN, and admins and viewers by session or token."""
    token = settings().metrics_token
    if token and hmac.compare_digest((bearer() or "").encode(), token.encode()):
        return
    require_user()
    require_admin()


@blueprint.get("/metrics")
def metrics() -> Response:
    """All metrics in the Prometheus text format."""
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


class LedgerCollector(Collector):
    """Yields the metrics of the ledger, from one database snapshot, and then those of Redis."""

    def collect(self) -> Iterator[Metric]:
        with balance.snapshot() as session:
            yield from _balance(balance.balance_in(session))
            waited = counts.oldest_waiting(session)
            oldest = {queue: max(seconds for (name, _), seconds in waited.items() if name == queue) for queue, _ in waited}
            yield _labelled("intray_oldest_waiting_seconds", "Seconds the oldest queued job has been waiting.", "queue", oldest)
            yield GaugeMetricFamily("intray_clock_up", "Whether a clock is running.", int(clock_lease.is_ticking(session)))
            yield from _minute(metrics_data.last_minute(session))
            yield from _times(metrics_data.times(session))
            yield _labelled("intray_paused", "Active pauses.", "scope", {one.scope: 1 for one in pauses.active(session)})
            yield _labelled(
                "intray_breaker_open",
                "Whether the circuit breaker of this server is open, so that jobs that need it are snoozed.",
                "name",
                metrics_data.breakers(session),
            )
            yield _labelled("intray_webhook_deliveries", "Pending webhook deliveries.", "state", metrics_data.deliveries(session))
            yield from _spent(metrics_data.spent_today(session))
            yield _alerts(current_alerts(session))
            yield from _workers(workers.list_workers_or_none(session))
        yield from _redis()


def _labelled(name: str, help_text: str, label: str, values: dict[str, float] | dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=(label,))
    for value, number in sorted(values.items()):
        family.add_metric((value,), number)
    return family


def _balance(balance: Balance) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("intray_jobs", "Jobs in the ledger.", labels=("queue", "type", "status"))
    for kind, count in sorted(balance.counts.items()):
        jobs.add_metric(kind, count)
    yield jobs
    yield CounterMetricFamily("intray_jobs_accepted", "Total jobs accepted.", balance.accepted)
    yield CounterMetricFamily("intray_jobs_finished", "Total jobs done, also those that were deleted since.", balance.ever("finished"))
    yield CounterMetricFamily(
        "intray_jobs_failed", "Total jobs that failed for good, also those that were deleted or requeued since.", balance.ever("failed")
    )
    yield CounterMetricFamily("intray_jobs_pruned", "Total jobs deleted, by retention or by hand.", balance.pruned)
    yield GaugeMetricFamily(
        "intray_ledger_imbalance", "Accepted jobs minus stored and deleted jobs. Anything but 0 raises an alert.", balance.imbalance
    )


def _minute(ended: dict[tuple[str, str], tuple[int, int]]) -> Iterator[Metric]:
    finished = GaugeMetricFamily("intray_finished_last_minute", "Jobs done in the last full minute.", labels=("queue", "type"))
    failed = GaugeMetricFamily("intray_failed_last_minute", "Jobs that failed in the last full minute.", labels=("queue", "type"))
    for kind, numbers in sorted(ended.items()):
        for family, number in zip((finished, failed), numbers, strict=True):
            family.add_metric(kind, number)
    yield from (finished, failed)


def _times(found: Iterable[metrics_data.Times]) -> Iterator[Metric]:
    labels = ("queue", "type", "percentile")  # `quantile` is a label of summaries, which have a sum and a count from the start
    run = GaugeMetricFamily("intray_run_seconds", "Run time of jobs done in the last five minutes.", labels=labels)
    wait = GaugeMetricFamily(
        "intray_wait_seconds", "Time the jobs done in the last five minutes had waited before they started.", labels=labels
    )
    for one in found:
        for percentile in metrics_data.PERCENTILES:
            run.add_metric((one.queue, one.type, str(percentile)), metrics_data.percentile(one.run, percentile))
            wait.add_metric((one.queue, one.type, str(percentile)), metrics_data.percentile(one.wait, percentile))
    yield from (run, wait)


def _spent(spent: metrics_data.Spent) -> Iterator[Metric]:
    yield GaugeMetricFamily("intray_llm_spent_today_usd", "Language model cost in USD since midnight UTC.", float(spent.usd))
    yield GaugeMetricFamily(
        "intray_llm_budget_usd", "Total daily language model budget in USD; 0 means no limit.", float(settings().llm_budget_usd)
    )
    tokens = {"read": spent.input_tokens, "written": spent.output_tokens}
    yield _labelled("intray_llm_tokens_today", "Language model tokens since midnight UTC.", "direction", tokens)


def _alerts(found: list[CurrentAlert]) -> Metric:
    """One line for each alert code, also for those that are not open, so that charts know them."""
    numbers = Counter(one.code for one in found)
    family = GaugeMetricFamily("intray_alerts_open", "Open alerts.", labels=("code", "severity"))
    for code, rule in alert_rules.RULES.items():
        family.add_metric((code, rule.severity), numbers[code])
    return family


def _workers(seen: list[WorkerInfo] | None) -> Iterator[Metric]:
    """Nothing while Redis is unavailable: 0 would be wrong."""
    if seen is None:
        return
    states, children = Counter({"busy": 0, "idle": 0}), Counter({"busy": 0, "idle": 0})
    for worker in seen:
        states[worker.state] += 1
        children.update("busy" if child.jobs else "idle" for child in worker.children)
    yield _labelled("intray_workers", "Running workers.", "state", states)
    yield _labelled("intray_children", "Worker processes that run jobs.", "state", children)


def _redis() -> Iterator[Metric]:
    """Whether Redis responds, and the messages in its queues if it does."""
    try:
        lengths = rq_queues.lengths(rq_queues.names())
    except RedisError:
        yield GaugeMetricFamily("intray_redis_up", "Whether Redis responds.", 0)
        return
    yield GaugeMetricFamily("intray_redis_up", "Whether Redis responds.", 1)
    yield _labelled("intray_messages", "Messages waiting in Redis.", "queue", lengths)


registry = CollectorRegistry()
registry.register(LedgerCollector())
