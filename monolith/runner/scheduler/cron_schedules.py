"""Schedules: jobs that are submitted at the times of a cron expression, in UTC.

The clock submits due jobs. Advancing the schedule and inserting the job are one transaction, so each time is submitted once,
however many clocks run. If times passed while no clock ran, one job makes up for all of them.
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
from sqlalchemy import JSON, Connection, ForeignKey, String, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from monolith.db.away import DatabaseAway, is_locked
from monolith.db.engine import now, read_now, read_session, storable, write_session
from monolith.db.models import MARK, Base, JobEvent, User
from monolith.errors import Conflict, Invalid, NotFound, Problem
from monolith.job_types import registry
from monolith.runner.ledger import admission, audit, lifecycle
from monolith.runner.ledger.audit import Actor
from monolith.runner.ledger.insert import JobSpec

MAX_CRON = 100
PREVIEWED = 5
CRON_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
CRON_HELP = (
    "Enter five fields in UTC: minute, hour, day of month, month, day of week. For example, '30 6 * * MON' runs every Monday at 06:30."
)
NICKNAMES = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *"}
FIELDS = ("name", "type", "params", "priority", "cron", "is_on")
MAX_NAME = 100
BATCH = 100  # due schedules in one run of the task
CORRECTED_S = 60.0

log = structlog.get_logger()


class Schedule(Base):
    """A schedule. `next_at` is None while it is off; `last_at` is when it last submitted a job, automatically or by hand."""

    __tablename__ = "schedules"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(MAX_NAME), unique=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(String(60))
    params: Mapped[dict[str, Any]] = mapped_column(JSON)
    priority: Mapped[str] = mapped_column(String(10))
    cron: Mapped[str] = mapped_column(String(MAX_CRON))
    is_on: Mapped[bool]
    created_at: Mapped[float] = mapped_column(default=now())
    next_at: Mapped[float | None]
    last_at: Mapped[float | None]
    last_job_id: Mapped[str | None] = mapped_column(String(36))
    last_error: Mapped[str | None] = mapped_column(String(500))

    owner: Mapped[User] = relationship(lazy="joined")

    def as_dict(self) -> dict[str, Any]:
        """The fields that users set, for the audit log."""
        return {name: getattr(self, name) for name in FIELDS}


class ScheduleChanged(Exception):
    """The schedule has changed since it was read, or another clock has submitted its job."""


# ---- actions of admins


def list_schedules(session: Session) -> list[Schedule]:
    """All schedules, by name."""
    return list(session.scalars(select(Schedule).order_by(Schedule.name)))


def find(session: Session, schedule_id: int) -> Schedule:
    """The schedule. Raises `NotFound`."""
    if found := session.get(Schedule, schedule_id):
        return found
    raise NotFound(f"Schedule {schedule_id} does not exist. It may have been deleted.")


def create(given: dict[str, Any], owner: User, by: Actor) -> Schedule:
    """Create a schedule from FIELDS; `owner` owns its jobs. Raises `Invalid`, or `Conflict` if the name is in use."""
    with _named(given), write_session() as session:
        schedule = Schedule(owner_id=owner.id, **_checked({"params": {}, "priority": "normal", "is_on": True, **given}, owner))
        schedule.next_at = _next(session, schedule)
        session.add(schedule)
        session.flush()
        audit.record(session, by, "schedule_created", schedule.name, after=schedule.as_dict())
        session.refresh(schedule)
    return schedule


def change(schedule_id: int, given: dict[str, Any], by: Actor) -> Schedule:
    """Change the given fields. A new cron expression, or switching it on, counts from now.

    Raises `NotFound`, `Invalid`, or `Conflict` if the name is in use.
    """
    with _named(given), write_session() as session:
        schedule = find(session, schedule_id)
        before = schedule.as_dict()
        for name, value in _checked({**before, **given}, schedule.owner).items():
            setattr(schedule, name, value)
        if (schedule.cron, schedule.is_on) != (before["cron"], before["is_on"]):
            schedule.next_at = _next(session, schedule)
        session.flush()
        audit.record(session, by, "schedule_changed", schedule.name, before=before, after=schedule.as_dict())
    return schedule


def remove(schedule_id: int, by: Actor) -> str:
    """Delete the schedule and return its name; jobs it has submitted are kept. Raises `NotFound`."""
    with write_session() as session:
        schedule = find(session, schedule_id)
        session.execute(delete(Schedule).where(Schedule.id == schedule_id))
        audit.record(session, by, "schedule_deleted", schedule.name, before=schedule.as_dict())
    return schedule.name


def run_now(schedule_id: int, by: Actor) -> str:
    """Submit its job now, in addition to its regular times, and return the job's id. Raises what a submission raises."""
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
    """The given fields, validated and normalized. Raises `Invalid` naming the field."""
    name = storable(str(given.get("name") or "").strip())
    if not 1 <= len(name) <= MAX_NAME:
        raise Invalid.field("/name", f"Enter a name of 1 to {MAX_NAME} characters.")
    if given["priority"] not in registry.PRIORITIES:
        raise Invalid.field("/priority", f"Choose one of: {', '.join(registry.PRIORITIES)}.")
    expression = normalize(str(given.get("cron") or ""))
    job_spec(given.get("type"), given["params"], given["priority"], owner)
    return {**{field: given[field] for field in FIELDS}, "name": name, "cron": expression, "is_on": bool(given["is_on"])}


def job_spec(type_name: Any, params: dict[str, Any], priority: str, owner: User) -> JobSpec:
    """The job spec of a schedule. Raises `Invalid` naming the field, also if it was valid when the schedule was created."""
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


# ---- the clock's task


def submit_due() -> Iterator[None]:
    """Submit the jobs of due schedules, the longest overdue first.

    One whose job type this version lacks is left to the clock of another version, for as long as a job waits for its type.
    """
    is_ours = or_(Schedule.type.in_(registry.discover()), Schedule.next_at <= now() - lifecycle.MISSING_TYPE_S)
    due = select(Schedule).where(Schedule.is_on, Schedule.next_at <= now(), is_ours).order_by(Schedule.next_at).limit(BATCH)
    with read_session() as session:
        found = list(session.scalars(due))
        moment = read_now(session)
    for schedule in found:
        try:
            _run_due(schedule, following(schedule.cron, moment))
        except DatabaseAway as error:
            if not is_locked(error):
                raise
            log.warning("row_locked", schedule=schedule.name, error=str(error.orig))  # the others do not wait for it
        yield


def correct() -> Iterator[None]:
    """Set the times of schedules anew that come later than their expression says: the database's clock was set back since.

    A time that is later by less than CORRECTED_S stays: clocks are often set back by a moment, and a schedule whose time has just
    come would run twice.
    """
    with read_session() as session:
        waiting = session.scalars(select(Schedule).where(Schedule.is_on, Schedule.next_at > now())).all()
        moment = read_now(session)
    for schedule in waiting:
        if schedule.next_at and schedule.next_at > following(schedule.cron, moment + CORRECTED_S):
            log.warning("schedule_corrected", schedule=schedule.name, seconds=round(schedule.next_at - moment))
            with write_session() as session:
                session.execute(_update_unchanged(schedule).values(next_at=following(schedule.cron, moment)))
        yield


def _run_due(schedule: Schedule, following: float) -> None:
    try:
        job_id = _submit(schedule, explained(schedule.cron), partial(_move_on, schedule, following))
        log.info("schedule_ran", schedule=schedule.name, job_id=job_id)
    except ScheduleChanged:
        pass
    except Problem as problem:
        log.warning("schedule_failed", schedule=schedule.name, error=problem.detail)
        reasons = "; ".join(error.detail for error in problem.errors) or problem.detail
        with write_session() as session:
            session.execute(_update_unchanged(schedule).values(next_at=following, last_error=storable(reasons, 500)))


def _submit(schedule: Schedule, why: str, first: Any) -> str:
    """Submit the job and return its id. Its timeline names the schedule. `first(job_id, connection)` runs in the same transaction."""
    owner = schedule.owner
    spec = job_spec(schedule.type, schedule.params, schedule.priority, owner)
    note = f"Schedule “{schedule.name}” of {owner.email}: {why}."
    lifecycle.submit(owner.id, [spec], before=partial(first, spec.id), admission=partial(_admit, owner, spec.id, note))
    return spec.id


@contextmanager
def _admit(owner: User, job_id: str, note: str, connection: Connection) -> Iterator[None]:
    """Check the limits of admission, and add an event that names the schedule to the job's timeline."""
    with admission.admit(connection, user=owner, jobs=1):
        yield
    connection.execute(insert(JobEvent).values(job_id=job_id, name=f"{MARK}by_schedule", attempt=0, note=storable(note)))


def _update_unchanged(schedule: Schedule) -> Any:
    """An update guarded by: the schedule is on, and its time is as it was read."""
    return update(Schedule).where(Schedule.id == schedule.id, Schedule.next_at == schedule.next_at, Schedule.is_on)


def _move_on(schedule: Schedule, following: float, job_id: str, connection: Connection) -> None:
    if connection.execute(_update_unchanged(schedule).values(next_at=following, **_ran(job_id))).rowcount != 1:
        raise ScheduleChanged


def _ran(job_id: str) -> dict[str, Any]:
    return {"last_at": now(), "last_job_id": job_id, "last_error": None}


def _note_run(schedule: Schedule, by: Actor, job_id: str, connection: Connection) -> None:
    with Session(connection) as session:
        session.execute(update(Schedule).where(Schedule.id == schedule.id).values(**_ran(job_id)))
        audit.record(session, by, "schedule_run", schedule.name, after={"job_id": job_id})


def normalize(expression: str) -> str:
    """The expression with single spaces and nicknames such as `@daily` expanded. Raises `Invalid` naming the wrong field."""
    given = NICKNAMES.get(expression.strip().lower(), " ".join(expression.split()))
    if len(given) > MAX_CRON or len(given.split()) != len(CRON_FIELDS):
        raise Invalid.field("/cron", CRON_HELP)
    try:
        next(CronSim(given, datetime(2000, 1, 1, tzinfo=UTC)))
    except StopIteration:
        raise Invalid.field("/cron", f"{given!r} never runs because no such date exists. Change the day or the month.") from None
    except (CronSimError, AssertionError, ValueError) as error:
        raise Invalid.field("/cron", _what_is_wrong(given, str(error))) from None
    return given


def _what_is_wrong(given: str, message: str) -> str:
    for name, part in zip(CRON_FIELDS, given.split(), strict=True):
        if message == f"Bad {name.replace(' of ', '-of-')}":
            return f"The {name} {part!r} is not valid. {CRON_HELP}"
    return f"{given!r} is not a valid cron expression. {CRON_HELP}"


def explained(expression: str) -> str:
    """The expression in words, such as `At 06:30 on Monday`."""
    return CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC)).explain()


def following(expression: str, moment: float) -> float:
    """The first time after this moment, in whole seconds since 1970."""
    return next(_times(expression, moment))


def upcoming(expression: str, moment: float) -> list[float]:
    """The next PREVIEWED times after this moment, in seconds since 1970."""
    return list(islice(_times(expression, moment), PREVIEWED))


def _times(expression: str, moment: float) -> Iterator[float]:
    return (at.timestamp() for at in CronSim(expression, datetime.fromtimestamp(moment, UTC)))
