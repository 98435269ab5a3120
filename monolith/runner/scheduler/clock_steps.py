"""What is corrected after the database's clock was set back: times that were made by it before would now be reached too late.

Of leases, heartbeats and missing messages, each reader knows by itself that a time in the future is old.
"""

from __future__ import annotations

from typing import Any

import structlog
from sqlalchemy import ColumnElement, Update, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute

from monolith.db.engine import now, unlocked, write_session
from monolith.db.models import Job, LlmAnswer, Sample, User
from monolith.db.rates import RateUse
from monolith.runner.admin.bulk_retry import BulkRetry
from monolith.runner.llm.circuit_breaker import CircuitBreaker
from monolith.runner.webhooks.models import Bookmark, Delivery, Webhook

NOTICED_S = 1.0  # clocks are often set back by less, which harms nobody
# What waits until such a time, or starts at it. None of them was chosen by a person, as the end of a pause is.
TIMES: tuple[InstrumentedAttribute[Any], ...] = (
    RateUse.next_at,
    CircuitBreaker.open_until,
    CircuitBreaker.probe_until,
    LlmAnswer.expires_at,
    Delivery.due_at,
    BulkRetry.stepped_at,
    Bookmark.at,
    Webhook.listening_since,
    User.mail_since,
)
# Delays and retries that were made at a time which is still to come.
_delayed = (Job.status == "scheduled", func.coalesce(Job.started_at, Job.created_at) > now())

log = structlog.get_logger()


def follow(seconds: float) -> None:
    """Move times in the future back by so many seconds, as the database's clock was. No error ends it."""
    log.error("database_clock_set_back", seconds=round(seconds))
    changes = [_moved(one, seconds, one > now()) for one in TIMES]
    for change in (*changes, _moved(Job.run_at, seconds, *_delayed), delete(Sample).where(Sample.at > now())):
        try:
            with write_session() as session:
                session.execute(change.execution_options(synchronize_session=False))
        except SQLAlchemyError as error:
            log.warning("times_not_moved", error=str(error))


def _moved(at: InstrumentedAttribute[Any], seconds: float, *guard: ColumnElement[bool]) -> Update:
    table = at.class_
    key = table.__mapper__.primary_key[0]
    return update(table).where(key.in_(unlocked(select(key).where(*guard)))).values({at: at - seconds})
