"""A breaker for each server that jobs depend on, in SQL and so shared by all workers, whatever becomes of Redis.

While it is open, jobs that need the server are parked and do not ask it. When its time is over, one job is let through as the
probe. Its success closes the breaker for all; its failure opens it again, for longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog
from sqlalchemy import String, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

from monolith.db.engine import now, read_now, read_session, storable, upsert, write_session
from monolith.db.models import Base
from monolith.errors import Permanent, Snooze

AWAY_AFTER = 3  # times in a row that the server could not be reached
AWAY_S = 30.0
LONGEST_S = 900.0  # unless the server asks for more
PROBING_S = 2.0  # how soon a job looks again while another probes
MAX_REASON = 300

log = structlog.get_logger()


class CircuitBreaker(Base):
    """One breaker; closed while there is no `open_until`."""

    __tablename__ = "breakers"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    failures: Mapped[int] = mapped_column(default=0)  # in a row
    open_until: Mapped[float | None]
    wait_s: Mapped[float | None]  # how long it was opened for
    reason: Mapped[str | None] = mapped_column(String(MAX_REASON))
    probe: Mapped[str | None] = mapped_column(String(36))  # the job that is let through
    probe_until: Mapped[float | None]  # when that job has had its time, and another one may


@contextmanager
def circuit(name: str, job_id: str, within_s: float) -> Iterator[None]:
    """Around one call of a server, of at most `within_s` seconds; see `registry.Job.calling`."""
    is_probe = _admit(name, job_id, within_s)
    try:
        yield
    except Snooze as later:
        raise Snooze(_open(name, job_id, later.seconds, later.reason), later.reason) from None
    except ConnectionError as error:
        if wait_s := _count_failure(name, job_id, str(error)):
            raise Snooze(wait_s, str(error)) from error
        raise
    except Permanent:  # a refusal is an answer
        _close(name, job_id)
        raise
    except Exception as error:
        if is_probe:
            _open(name, job_id, 0, str(error))
        raise
    except BaseException:  # the job was stopped, or ran past its limit: nothing was learned
        if is_probe:
            _let_another_probe(name, job_id)
        raise
    _close(name, job_id)


def _admit(name: str, job_id: str, within_s: float) -> bool:
    """Whether this call is the probe. Raises `Later` where the job must wait."""
    with read_session() as session:
        row = session.execute(select(CircuitBreaker.open_until, CircuitBreaker.reason, now()).where(CircuitBreaker.name == name)).first()
    open_until, reason, moment = row or (None, None, 0.0)
    if open_until is None:
        return False
    if open_until > moment:
        raise Snooze(open_until - moment, reason or "")
    return _probe(name, job_id, within_s)


def _probe(name: str, job_id: str, within_s: float) -> bool:
    """Be the probe, if no other is and the breaker is still due."""
    with _locked(name) as (breaker, moment):
        if breaker.open_until is None:
            return False
        if breaker.open_until > moment:
            raise Snooze(breaker.open_until - moment, breaker.reason or "")
        if breaker.probe_until is not None and breaker.probe_until > moment:
            probed_for_s = within_s - (breaker.probe_until - moment)  # the longer it takes, the less often the others look
            raise Snooze(max(PROBING_S, probed_for_s), f"{breaker.reason} Another job is testing whether it is back.")
        breaker.probe, breaker.probe_until = job_id, moment + within_s
        return True


def _open(name: str, job_id: str, seconds: float, reason: str) -> float:
    """Open it for so long, for longer after a failed probe, or no shorter than it is open already. For how many seconds now."""
    with _locked(name) as (breaker, moment):
        least = max(0.0, (breaker.open_until or 0.0) - moment)
        if breaker.probe == job_id:
            least = min(2 * (breaker.wait_s or AWAY_S), LONGEST_S)
            breaker.probe = breaker.probe_until = None
        wait_s = max(seconds, least)
        breaker.open_until, breaker.wait_s = moment + wait_s, max(wait_s, breaker.wait_s or 0.0)
        breaker.reason = storable(reason, MAX_REASON)
    log.warning("breaker_opened", breaker=name, seconds=round(wait_s, 1), reason=reason)
    return wait_s


def _count_failure(name: str, job_id: str, reason: str) -> float | None:
    """Note that the server could not be reached; opens the breaker when that happens too often, and gives the seconds."""
    with _locked(name) as (breaker, _):
        breaker.failures += 1
        if breaker.open_until is None and breaker.failures < AWAY_AFTER:
            return None
    return _open(name, job_id, AWAY_S, reason)


def _close(name: str, job_id: str) -> None:
    """After an answer. Only the probe's closes an open breaker: other calls may have begun before it opened."""
    ours = or_(CircuitBreaker.probe == job_id, CircuitBreaker.open_until.is_(None) & (CircuitBreaker.failures > 0))
    closed = {"failures": 0, "open_until": None, "wait_s": None, "reason": None, "probe": None, "probe_until": None}
    with write_session() as session:
        if session.scalar(update(CircuitBreaker).where(CircuitBreaker.name == name, ours).values(closed).returning(CircuitBreaker.name)):
            log.info("breaker_closed", breaker=name)


def _let_another_probe(name: str, job_id: str) -> None:
    with suppress(SQLAlchemyError), write_session() as session:
        session.execute(
            update(CircuitBreaker).where(CircuitBreaker.name == name, CircuitBreaker.probe == job_id).values(probe=None, probe_until=None)
        )


@contextmanager
def _locked(name: str) -> Iterator[tuple[CircuitBreaker, float]]:
    """The breaker, whose row is made if need be and is ours until the end of the block, and the moment."""
    with write_session() as session:
        session.execute(upsert(session, CircuitBreaker).values(name=name, failures=0).on_conflict_do_nothing())
        breaker = session.scalars(select(CircuitBreaker).where(CircuitBreaker.name == name).with_for_update()).one()
        yield breaker, read_now(session)
