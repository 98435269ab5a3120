"""Periodic work: a job that is submitted again and again, at the times that a cron expression says, in UTC.

The clock submits what is due. That the next time moves on and that the job is accepted are one transaction, so each time is
submitted once, however many clocks there are. Times that passed while no clock ran are made up for by one job, not by many.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

import structlog
from cronsim import CronSim, CronSimError
from sqlalchemy import JSON, Connection, ForeignKey, String, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from monolith.db.engine import now, read_now, read_session, storable, write_session
from monolith.db.models import MARK, Base, JobEvent, User
from monolith.errors import Conflict, Invalid, NotFound, Problem
from monolith.job_types import registry
from monolith.runner.ledger import admission, audit, lifecycle
from monolith.runner.ledger.audit import Actor
from monolith.runner.ledger.insert import JobSpec

LONGEST = 100
PREVIEWED = 5
CRON_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
HOW = "Enter five fields in UTC: minute, hour, day of month, month, day of week. For example, '30 6 * * MON' runs every Monday at 06:30."
SHORT = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *"}


FIELDS = ("name", "type", "params", "priority", "cron", "is_on")
MAX_NAME = 100
AT_ONCE = 100  # schedules that are looked at in one turn of the clock

log = structlog.get_logger()


class Schedule(Base):
    """`next_at` is None while it is off; `last_at` is when it last made a job, by the clock or by hand."""

    __tablename__ = "schedules"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(MAX_NAME), unique=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(String(60))
    params: Mapped[dict[str, Any]] = mapped_column(JSON)
    priority: Mapped[str] = mapped_column(String(10))
    cron: Mapped[str] = mapped_column(String(LONGEST))
    is_on: Mapped[bool]
    created_at: Mapped[float] = mapped_column(default=now())
    next_at: Mapped[float | None]
    last_at: Mapped[float | None]
    last_job_id: Mapped[str | None] = mapped_column(String(36))
    last_error: Mapped[str | None] = mapped_column(String(500))

    owner: Mapped[User] = relationship(lazy="joined")

    def told(self) -> dict[str, Any]:
        """What people set, for the audit trail."""
        return {name: getattr(self, name) for name in FIELDS}


class Taken(Exception):
    """Another clock was faster, or the schedule was changed meanwhile."""


# ---- what people do


def known(session: Session) -> list[Schedule]:
    """All of them, by name."""
    return list(session.scalars(select(Schedule).order_by(Schedule.name)))


def find(session: Session, schedule_id: int) -> Schedule:
    """Raises `NotFound`."""
    if found := session.get(Schedule, schedule_id):
        return found
    raise NotFound(f"Schedule {schedule_id} does not exist. It may have been deleted.")


def create(given: dict[str, Any], owner: User, by: Actor) -> Schedule:
    """A new schedule of what FIELDS names; its jobs are the owner's. Raises `Invalid`, or `Conflict` for a name that is taken."""
    with _named(given), write_session() as session:
        schedule = Schedule(owner_id=owner.id, **_checked({"params": {}, "priority": "normal", "is_on": True, **given}, owner))
        schedule.next_at = _next(session, schedule)
        session.add(schedule)
        session.flush()
        audit.record(session, by, "schedule_created", schedule.name, after=schedule.told())
        session.refresh(schedule)
    return schedule


def change(schedule_id: int, given: dict[str, Any], by: Actor) -> Schedule:
    """Change what is given of it. Where its time is changed or it is switched on, it goes on from now. Raises as `create` does."""
    with _named(given), write_session() as session:
        schedule = find(session, schedule_id)
        before = schedule.told()
        for name, value in _checked({**before, **given}, schedule.owner).items():
            setattr(schedule, name, value)
        if (schedule.cron, schedule.is_on) != (before["cron"], before["is_on"]):
            schedule.next_at = _next(session, schedule)
        session.flush()
        audit.record(session, by, "schedule_changed", schedule.name, before=before, after=schedule.told())
    return schedule


def remove(schedule_id: int, by: Actor) -> str:
    """Delete it; the jobs it made stay. Gives its name. Raises `NotFound`."""
    with write_session() as session:
        schedule = find(session, schedule_id)
        session.execute(delete(Schedule).where(Schedule.id == schedule_id))
        audit.record(session, by, "schedule_deleted", schedule.name, before=schedule.told())
    return schedule.name


def run_now(schedule_id: int, by: Actor) -> str:
    """Submit its job now, besides its times; the job's id. Raises what a submission raises."""
    with read_session() as session:
        schedule = find(session, schedule_id)
    return _submit(schedule, f"run by {by.name}", partial(_note_run, schedule, by))


@contextmanager
def _named(given: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        detail = f"A schedule named {given.get('name')!r} already exists. Choose another name."
        raise Conflict(detail, errors=Invalid.field("/name", detail).errors) from None


def _checked(given: dict[str, Any], owner: User) -> dict[str, Any]:
    """What was given, as it is kept. Raises `Invalid` naming the field."""
    name = storable(str(given.get("name") or "").strip())
    if not 1 <= len(name) <= MAX_NAME:
        raise Invalid.field("/name", f"Enter a name of 1 to {MAX_NAME} characters.")
    if given["priority"] not in registry.PRIORITIES:
        raise Invalid.field("/priority", f"Choose one of: {', '.join(registry.PRIORITIES)}.")
    expression = checked(str(given.get("cron") or ""))
    wanted_of(given.get("type"), given["params"], given["priority"], owner)
    return {**{field: given[field] for field in FIELDS}, "name": name, "cron": expression, "is_on": bool(given["is_on"])}


def wanted_of(type_name: Any, params: dict[str, Any], priority: str, owner: User) -> JobSpec:
    """The job that a schedule asks for. Raises `Invalid` naming the field, also for what was right when it was set up."""
    if not owner.is_admin:
        raise Invalid.field("/owner", f"{owner.email} is no longer an admin, and only admins' schedules run.")
    job_type = registry.find(type_name, user=owner)
    if reason := job_type.unavailable_reason:
        raise Invalid.field("/type", f"{job_type.name} is not available here: {reason}")
    if job_type.takes == "document" and not job_type.alternatives:
        raise Invalid.field("/type", f"{job_type.name} needs a document, which a schedule does not have. Choose another job type.")
    return JobSpec(job_type, job_type.load_params(params, has_document=False), priority)


def _next(session: Session, schedule: Schedule) -> float | None:
    return following(schedule.cron, read_now(session)) if schedule.is_on else None


# ---- what the clock does


def submit_due() -> Iterator[None]:
    """Submit what is due, the longest overdue first, each once."""
    due = select(Schedule).where(Schedule.is_on, Schedule.next_at <= now()).order_by(Schedule.next_at).limit(AT_ONCE)
    with read_session() as session:
        found = list(session.scalars(due))
        moment = read_now(session)
    for schedule in found:
        _run_due(schedule, following(schedule.cron, moment))
        yield


def _run_due(schedule: Schedule, following: float) -> None:
    try:
        job_id = _submit(schedule, explained(schedule.cron), partial(_move_on, schedule, following))
        log.info("schedule_ran", schedule=schedule.name, job_id=job_id)
    except Taken:
        pass
    except Problem as problem:
        log.warning("schedule_failed", schedule=schedule.name, error=problem.detail)
        said = "; ".join(error.detail for error in problem.errors) or problem.detail
        with write_session() as session:
            session.execute(_mine(schedule).values(next_at=following, last_error=storable(said, 500)))


def _submit(schedule: Schedule, why: str, first: Any) -> str:
    """The id of the job, which says whose schedule it follows and why. `first` is done in the same transaction, with that id."""
    owner = schedule.owner
    wanted = wanted_of(schedule.type, schedule.params, schedule.priority, owner)
    said = f"Schedule “{schedule.name}” of {owner.email}: {why}."
    lifecycle.submit(owner.id, [wanted], before=partial(first, wanted.id), admission=partial(_telling, owner, wanted.id, said))
    return wanted.id


@contextmanager
def _telling(owner: User, job_id: str, said: str, connection: Connection) -> Iterator[None]:
    """Let the job in, and write into its timeline where it comes from."""
    with admission.admit(connection, user=owner, jobs=1):
        yield
    connection.execute(insert(JobEvent).values(job_id=job_id, name=f"{MARK}by_schedule", attempt=0, note=storable(said)))


def _mine(schedule: Schedule) -> Any:
    """The guard: it is still as it was read, and on."""
    return update(Schedule).where(Schedule.id == schedule.id, Schedule.next_at == schedule.next_at, Schedule.is_on)


def _move_on(schedule: Schedule, following: float, job_id: str, connection: Connection) -> None:
    if connection.execute(_mine(schedule).values(next_at=following, **_ran(job_id))).rowcount != 1:
        raise Taken


def _ran(job_id: str) -> dict[str, Any]:
    return {"last_at": now(), "last_job_id": job_id, "last_error": None}


def _note_run(schedule: Schedule, by: Actor, job_id: str, connection: Connection) -> None:
    with Session(connection) as session:
        session.execute(update(Schedule).where(Schedule.id == schedule.id).values(**_ran(job_id)))
        audit.record(session, by, "schedule_run", schedule.name, after={"job_id": job_id})


def checked(expression: str) -> str:
    """The expression with single spaces, short ones such as `@daily` written out. Raises `Invalid` saying which field is wrong."""
    given = SHORT.get(expression.strip().lower(), " ".join(expression.split()))
    if len(given) > LONGEST or len(given.split()) != len(CRON_FIELDS):
        raise Invalid.field("/cron", HOW)
    try:
        next(CronSim(given, datetime(2000, 1, 1, tzinfo=UTC)))
    except StopIteration:
        raise Invalid.field("/cron", f"{given!r} never runs because no such date exists. Change the day or the month.") from None
    except (CronSimError, AssertionError, ValueError) as error:
        raise Invalid.field("/cron", _what_is_wrong(given, str(error))) from None
    return given


def _what_is_wrong(given: str, said: str) -> str:
    for name, part in zip(CRON_FIELDS, given.split(), strict=True):
        if said == f"Bad {name.replace(' of ', '-of-')}":
            return f"The {name} {part!r} is not valid. {HOW}"
    return f"{given!r} is not a valid cron expression. {HOW}"


def explained(expression: str) -> str:
    """In words: `At 06:30 on Monday`."""
    return CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC)).explain()


def following(expression: str, moment: float) -> float:
    """The first time after this moment, in seconds since 1970; both databases keep it to the second."""
    return next(_times(expression, moment))


def upcoming(expression: str, moment: float) -> list[float]:
    """The next PREVIEWED times."""
    return list(islice(_times(expression, moment), PREVIEWED))


def _times(expression: str, moment: float) -> Iterator[float]:
    return (at.timestamp() for at in CronSim(expression, datetime.fromtimestamp(moment, UTC)))
