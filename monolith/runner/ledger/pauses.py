"""Pauses of all jobs, a queue or a job type: who paused it, why, and until when.

A pause prevents claims and nothing else: jobs can still be submitted. A worker that receives the message of a paused job leaves
the job queued; when the pause is over, the clock pushes the waiting jobs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache

from sqlalchemy import ColumnElement, String, delete, exists, literal, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session, mapped_column

from monolith.db.engine import now, read_now, read_session, storable, unlocked, upsert, write_session
from monolith.db.models import Base
from monolith.errors import Invalid, NotFound
from monolith.job_types import registry
from monolith.runner.ledger import audit
from monolith.runner.ledger.audit import Actor

EVERYTHING = "all"
FRESH_S = 1.0  # the age of pauses on pages; claims read the table itself


class Pause(Base):
    """A pause. `scope`: `all`, `queue:<name>` or `type:<name>`; `until`: when it ends automatically."""

    __tablename__ = "pauses"

    scope: Mapped[str] = mapped_column(String(70), primary_key=True)
    reason: Mapped[str] = mapped_column(String(300))
    paused_by: Mapped[str] = mapped_column(String(254))
    since: Mapped[float] = mapped_column(default=now())
    until: Mapped[float | None]


@dataclass(frozen=True)
class Paused:
    """A read-only copy of an active pause."""

    scope: str
    reason: str
    paused_by: str
    since: float
    until: float | None


_is_active = or_(Pause.until.is_(None), Pause.until > now())


def holds_back(queue: InstrumentedAttribute[str], type_name: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """A condition for the guard of a claim: jobs of this queue and type are paused."""
    scopes = (literal(EVERYTHING), literal("queue:") + queue, literal("type:") + type_name)
    return exists().where(Pause.scope.in_(scopes), _is_active)


def pause(scope: str, reason: str, by: Actor, *, until: float | None = None) -> Paused:
    """Pause `all`, `queue:<name>` or `type:<name>`, or change the reason and end of its pause. Claims stop at once.

    `until`: seconds since 1970, when it ends automatically. Raises `NotFound` for an unknown scope, and `Invalid`.
    """
    if scope not in scopes():
        raise NotFound(f"No queue or job type {scope[:70]!r} exists. Choose one of: {', '.join(scopes())}.")
    reason = storable(reason.strip(), 300)
    if not reason:
        raise Invalid.field("/reason", "Enter a reason for the users whose jobs are waiting.")
    with write_session() as session:
        if until is not None and until <= read_now(session):
            raise Invalid.field("/until", "This time is in the past. Choose a future time, or leave it empty.")
        before = _of(session, scope)
        values = {"scope": scope, "reason": reason, "paused_by": by.name, "since": before.since if before else now(), "until": until}
        changed = {name: values[name] for name in values if name != "scope"}
        session.execute(upsert(session, Pause).values(values).on_conflict_do_update(index_elements=["scope"], set_=changed))
        after = _of(session, scope)
        assert after is not None  # noqa: S101 - it was just written
        audit.record(session, by, "pause", scope, before=asdict(before) if before else None, after=asdict(after))
    active_in.cache_clear()
    return after


def resume(scope: str, by: Actor) -> None:
    """End a pause; within a second the clock pushes the waiting jobs. Raises `NotFound` when the scope is not paused."""
    with write_session() as session:
        before = _of(session, scope)
        if before is None:
            raise NotFound(f"{scope[:70]!r} is not paused. GET /api/v1/pauses lists active pauses.")
        session.execute(delete(Pause).where(Pause.scope == scope))
        audit.record(session, by, "resume", scope, before=asdict(before))
    active_in.cache_clear()


def active(session: Session) -> list[Paused]:
    """The active pauses, the oldest first."""
    columns = [getattr(Pause, name) for name in Paused.__dataclass_fields__]
    return [Paused(*row) for row in session.execute(select(*columns).where(_is_active).order_by(Pause.since, Pause.scope))]


def known() -> list[Paused]:
    """The active pauses for pages and API answers, up to FRESH_S old."""
    return active_in(int(time.monotonic() / FRESH_S))


@lru_cache(maxsize=1)
def active_in(period: int) -> list[Paused]:
    """The pauses that were active in this period of FRESH_S seconds; the cache of `known`."""
    with read_session() as session:
        return active(session)


def of(queue: str, type_name: str, pauses: Iterable[Paused]) -> Paused | None:
    """The pause that holds back jobs of this queue and type; of several, the one that ends last."""
    scopes = (EVERYTHING, f"queue:{queue}", f"type:{type_name}")
    return max((one for one in pauses if one.scope in scopes), key=lambda one: one.until or float("inf"), default=None)


def scopes() -> list[str]:
    """Every scope that can be paused."""
    types = sorted({*registry.discover(), *registry.broken_types()})
    return [EVERYTHING, *(f"queue:{name}" for name in registry.queues()), *(f"type:{name}" for name in types)]


def forget_ended() -> None:
    """Delete the pauses whose time is over, each with an entry in the audit log."""
    with read_session() as session:  # called every second: do not take the write lock in vain
        if not session.scalar(select(Pause.scope).where(Pause.until <= now()).limit(1)):
            return
    ended = (
        delete(Pause).where(Pause.scope.in_(unlocked(select(Pause.scope).where(Pause.until <= now())))).returning(Pause.scope, Pause.reason)
    )
    with write_session() as session:
        for scope, reason in session.execute(ended).all():
            audit.record(session, Actor("clock"), "pause_ended", scope, before={"reason": reason})


def _of(session: Session, scope: str) -> Paused | None:
    return next((one for one in active(session) if one.scope == scope), None)
