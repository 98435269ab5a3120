"""Retention: deletes old rows in small batches.

These are jobs that are over, with their events and files; samples, spendings, cached answers, deliveries, alerts, batches and
idempotency keys. Documents are never deleted: they belong to users.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import structlog
from sqlalchemy import delete, exists, select
from sqlalchemy.orm import InstrumentedAttribute

from monolith.config import settings
from monolith.db.engine import read_now, read_session, unlocked, write_session
from monolith.db.models import OVER, Job, LlmAnswer, Sample
from monolith.db.rates import RateUse
from monolith.runner.admin.deletion import delete_jobs
from monolith.runner.ledger import batches, counts, idempotency
from monolith.runner.llm.budget import Spending
from monolith.runner.monitoring.alerts import Alert
from monolith.runner.webhooks import outbox
from monolith.runner.webhooks.models import Delivery, Webhook

BATCH = 500  # rows in one transaction, which takes a fraction of a second
DAY_S = 24 * 3600.0
KEEP_SAMPLES_DAYS = 8
KEEP_SPENDINGS_DAYS = 400
KEEP_ALERTS_DAYS = 90
KEEP_DELIVERIES_S = 4 * DAY_S  # at least: until their last attempt
log = structlog.get_logger()


def prune() -> Iterator[None]:
    """Delete what is older than the settings allow, or exceeds the number to keep, one batch at a step."""
    with read_session() as session:
        moment = read_now(session)
        kinds = [(status, type_name) for status in OVER for type_name in counts.types(session, status)]
    for status, type_name in kinds:
        yield from _prune_jobs(status, type_name, moment)
    yield from _prune_rows(Sample.id, Sample.at, moment - KEEP_SAMPLES_DAYS * DAY_S)
    yield from _prune_rows(Spending.day, Spending.day, moment / DAY_S - KEEP_SPENDINGS_DAYS)
    yield from _prune_rows(LlmAnswer.key, LlmAnswer.expires_at, moment)
    yield from _prune_rows(RateUse.key, RateUse.next_at, moment - DAY_S)  # unused for so long, it has room anyway
    yield from _prune_rows(Delivery.id, Delivery.created_at, moment - settings().keep_failed_days * DAY_S - KEEP_DELIVERIES_S)
    yield from _prune_rows(Alert.id, Alert.closed_at, moment - KEEP_ALERTS_DAYS * DAY_S)
    yield from _prune_single_webhooks()
    yield from batches.prune(moment - settings().keep_failed_days * DAY_S)
    with write_session() as session:
        idempotency.forget_old(session)


def _prune_jobs(status: str, type_name: str, moment: float) -> Iterator[None]:
    days = settings().keep_finished_days if status == "finished" else settings().keep_failed_days
    until = min(max(moment - days * DAY_S, _surplus_until(status, type_name)), outbox.read_until())
    deleted, batch = 0, BATCH
    while batch == BATCH:
        batch = _prune_batch(status, type_name, until)
        deleted += batch
        yield
    if deleted:
        log.info("jobs_pruned", type=type_name, status=status, jobs=deleted)


def _surplus_until(status: str, type_name: str) -> float:
    """When the newest job ended that exceeds KEEP_PER_TYPE; 0 if none does."""
    newest = select(Job.ended_at).where(Job.status == status, Job.type == type_name).order_by(Job.ended_at.desc())
    with read_session() as session:
        return session.scalar(newest.offset(settings().keep_per_type).limit(1)) or 0.0


def _prune_batch(status: str, type_name: str, until: float) -> int:
    """Delete one batch and return its size. The guard is repeated, because a job may be requeued after the inner query found it.

    Webhook deliveries are pruned by their own age.
    """
    guard = (Job.status == status, Job.type == type_name, Job.ended_at <= until, Job.trash_id.is_(None))
    oldest = select(Job.id).where(*guard).order_by(Job.ended_at).limit(BATCH)
    with write_session() as session:
        return delete_jobs(session, *guard, Job.id.in_(unlocked(oldest)), ended_long_ago=True)


def _prune_rows(key: InstrumentedAttribute[Any], at: InstrumentedAttribute[Any], until: float) -> Iterator[None]:
    batch = BATCH
    while batch == BATCH:
        with write_session() as session:
            old = unlocked(select(key).where(at < until).limit(BATCH))
            deletion = delete(key.class_).where(key.in_(old)).returning(key).execution_options(synchronize_session=False)
            batch = len(session.scalars(deletion).all())
        yield


def _prune_single_webhooks() -> Iterator[None]:
    """Delete the endpoints of single jobs whose job and deliveries have been deleted."""
    job, deliveries = exists().where(Job.id == Webhook.job_id), exists().where(Delivery.webhook_id == Webhook.id)
    old = select(Webhook.id).where(Webhook.job_id.is_not(None), ~job, ~deliveries).limit(BATCH)
    batch = BATCH
    while batch == BATCH:
        with write_session() as session:
            deletion = (
                delete(Webhook).where(Webhook.id.in_(unlocked(old))).returning(Webhook.id).execution_options(synchronize_session=False)
            )
            batch = len(session.scalars(deletion).all())
        yield
