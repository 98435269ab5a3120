"""Circuit breakers, one for each server that jobs depend on; in SQL, so all workers share them, with or without Redis.

While a breaker is open, jobs that need its server are snoozed. When its time is over, a single job tests the server as the probe:
success closes the breaker, failure opens it again, for longer.
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

AWAY_AFTER = 3  # failed connections in a row that open the breaker
AWAY_S = 30.0
LONGEST_S = 900.0  # unless the server itself asks for more
PROBING_S = 2.0  # how long a job is snoozed at least while another is the probe
MAX_REASON = 300

log = structlog.get_logger()


class CircuitBreaker(Base):
    """One breaker. It is closed while `open_until` is NULL."""

    __tablename__ = "breakers"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    failures: Mapped[int] = mapped_column(default=0)  # connection failures in a row
    open_until: Mapped[float | None]
    wait_s: Mapped[float | None]  # for how long it was opened
    reason: Mapped[str | None] = mapped_column(String(MAX_REASON))
    probe: Mapped[str | None] = mapped_column(String(36))  # the job that tests the server
    probe_until: Mapped[float | None]  # from then on another job may be the probe


@contextmanager
def circuit(name: str, job_id: str, within_s: float) -> Iterator[None]:
    """Wraps one call to a server, which takes at most `within_s` seconds; `job_types.interface.Job.circuit` documents it.

    Raises `Snooze` while the breaker is open, where the call opens it, and where the call itself asks to wait.
    """
    is_probe = _admit(name, job_id, within_s)
    try:
        yield
    except Snooze as later:
        raise Snooze(_open(name, job_id, later.seconds, later.reason), later.reason) from None
    except ConnectionError as error:
        if wait_s := _count_failure(name, job_id, str(error)):
            raise Snooze(wait_s, str(error)) from error
        raise
    except Permanent:  # the server answered
        _close(name, job_id)
        raise
    except Exception as error:
        if is_probe:
            _open(name, job_id, 0, str(error))
        raise
    except BaseException:  # the job was stopped or exceeded its time limit: the test has no result
        if is_probe:
            _release_probe(name, job_id)
        raise
    _close(name, job_id)


def _admit(name: str, job_id: str, within_s: float) -> bool:
    """Whether this call is the probe. Raises `Snooze` where the job must wait."""
    with read_session() as session:
        row = session.execute(select(CircuitBreaker.open_until, CircuitBreaker.reason, now()).where(CircuitBreaker.name == name)).first()
    open_until, reason, moment = row or (None, None, 0.0)
    if open_until is None:
        return False
    if open_until > moment:
        raise Snooze(open_until - moment, reason or "")
    return _become_probe(name, job_id, within_s)


def _become_probe(name: str, job_id: str, within_s: float) -> bool:
    """Make this job the probe. False when the breaker was closed meanwhile; raises `Snooze` while another job is the probe."""
    with _locked(name) as (breaker, moment):
        if breaker.open_until is None:
            return False
        if breaker.open_until > moment:
            raise Snooze(breaker.open_until - moment, breaker.reason or "")
        if breaker.probe_until is not None and breaker.probe_until > moment:
            probed_for_s = within_s - (breaker.probe_until - moment)  # the longer the test takes, the longer the others wait
            raise Snooze(max(PROBING_S, probed_for_s), f"{breaker.reason} Another job is testing whether it is back.")
        breaker.probe, breaker.probe_until = job_id, moment + within_s
        return True


def _open(name: str, job_id: str, seconds: float, reason: str) -> float:
    """Open the breaker for so many seconds: for longer after a failed probe, never shorter than it is open already.

    Returns the seconds.
    """
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
    """Count a failed connection. Returns None, or the seconds for which that opened the breaker."""
    with _locked(name) as (breaker, _):
        breaker.failures += 1
        if breaker.open_until is None and breaker.failures < AWAY_AFTER:
            return None
    return _open(name, job_id, AWAY_S, reason)


def _close(name: str, job_id: str) -> None:
    """Close the breaker after an answer. Only the probe closes an open one: other calls may have begun before it opened."""
    ours = or_(CircuitBreaker.probe == job_id, CircuitBreaker.open_until.is_(None) & (CircuitBreaker.failures > 0))
    closed = {"failures": 0, "open_until": None, "wait_s": None, "reason": None, "probe": None, "probe_until": None}
    with write_session() as session:
        if session.scalar(update(CircuitBreaker).where(CircuitBreaker.name == name, ours).values(closed).returning(CircuitBreaker.name)):
            log.info("breaker_closed", breaker=name)


def _release_probe(name: str, job_id: str) -> None:
    with suppress(SQLAlchemyError), write_session() as session:
        session.execute(
            update(CircuitBreaker).where(CircuitBreaker.name == name, CircuitBreaker.probe == job_id).values(probe=None, probe_until=None)
        )


@contextmanager
def _locked(name: str) -> Iterator[tuple[CircuitBreaker, float]]:
    """The row of the breaker, inserted if missing and locked until the end of the block, and the time now."""
    with write_session() as session:
        session.execute(upsert(session, CircuitBreaker).values(name=name, failures=0).on_conflict_do_nothing())
        breaker = session.scalars(select(CircuitBreaker).where(CircuitBreaker.name == name).with_for_update()).one()
        yield breaker, read_now(session)
