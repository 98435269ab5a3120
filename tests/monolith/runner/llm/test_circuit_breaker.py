"""The breaker of a server that jobs depend on: one for all workers, closed by one probe; on each database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update

from monolith.db.engine import now, read_session, write_session
from monolith.errors import Permanent, Snooze
from monolith.runner.llm import circuit_breaker
from monolith.runner.llm.circuit_breaker import CircuitBreaker
from tests.support.processes import until

pytestmark = pytest.mark.databases

BUSY = "The server is busy."


@pytest.fixture(autouse=True)
def ledger(intray_settings: Callable[..., None]) -> None:
    """A database of its own."""


def call(job: str, raised: BaseException | None = None) -> str:
    """One call by this job, which ends like this."""
    with circuit_breaker.circuit("llm", job, 60):
        if raised:
            raise raised
    return "answered"


def parked(job: str, raised: BaseException | None = None) -> Snooze:
    with pytest.raises(Snooze) as later:
        call(job, raised)
    return later.value


def come_due(seconds: float = 0.0) -> None:
    """Let the time of the breaker be over since some seconds."""
    with write_session() as session:
        session.execute(update(CircuitBreaker).values(open_until=now() - seconds))


def breaker(column: Any) -> Any:
    with read_session() as session:
        return session.scalar(select(column))


def test_a_server_that_asks_to_wait_is_asked_by_nobody_until_then() -> None:
    assert parked("a", Snooze(7, BUSY)).seconds == 7
    for job in ("a", "b"):
        later = parked(job, AssertionError("it asked"))
        assert 5 < later.seconds <= 7 and later.reason == BUSY


def test_of_twenty_that_come_when_the_time_is_over_one_is_let_through_and_its_answer_opens_for_all() -> None:
    parked("first", Snooze(7, BUSY))
    come_due()
    together, begun, over, asked = threading.Barrier(20), threading.Event(), threading.Event(), []

    def ask(job: str) -> float | None:
        together.wait(20)
        try:
            with circuit_breaker.circuit("llm", job, 60):
                asked.append(job)
                begun.set()
                assert over.wait(20)
        except Snooze as later:
            return later.seconds
        return None

    with ThreadPoolExecutor(20) as pool:
        waits = [pool.submit(ask, f"job {number}") for number in range(20)]
        assert begun.wait(20)
        until(lambda: sum(wait.done() for wait in waits) == 19)
        over.set()
    assert sorted(wait.result() or 0 for wait in waits)[:2] == [0, circuit_breaker.PROBING_S]
    assert len(asked) == 1
    assert call("another") == "answered"


def test_while_one_probes_the_others_look_again_soon_and_less_often_the_longer_it_takes() -> None:
    parked("a", Snooze(7, BUSY))
    come_due()
    with circuit_breaker.circuit("llm", "probe", 60):
        early = parked("b")
        with write_session() as session:
            session.execute(update(CircuitBreaker).values(probe_until=now() + 20))
        late = parked("b")
    assert early.seconds == circuit_breaker.PROBING_S and 39 < late.seconds < 42
    assert early.reason == f"{BUSY} Another job is testing whether it is back."


@pytest.mark.parametrize(
    "failure", [Snooze(1, BUSY), ConnectionError("away"), RuntimeError("status 500")], ids=lambda one: type(one).__name__
)
def test_a_probe_that_fails_opens_it_again_for_longer_up_to_a_limit(failure: Exception) -> None:
    parked("a", Snooze(30, BUSY))
    waits = []
    for _ in range(8):
        come_due()
        with pytest.raises(type(failure) if isinstance(failure, RuntimeError) else Snooze):
            call("probe", failure)
        waits.append(round(parked("b").seconds))
    assert waits[:3] == [60, 120, 240] and waits[-1] == circuit_breaker.LONGEST_S


def test_a_server_that_asks_for_more_than_the_limit_gets_it() -> None:
    parked("a", Snooze(10, BUSY))
    come_due()
    assert parked("probe", Snooze(3000, BUSY)).seconds == 3000


def test_a_refusal_of_the_probe_is_an_answer() -> None:
    parked("a", Snooze(10, BUSY))
    come_due()
    with pytest.raises(Permanent):
        call("probe", Permanent("wrong key"))
    assert call("b") == "answered"


def test_a_probe_that_is_stopped_lets_another_one_probe_at_once() -> None:
    parked("a", Snooze(10, BUSY))
    come_due()
    with pytest.raises(KeyboardInterrupt):
        call("probe", KeyboardInterrupt())
    assert call("b") == "answered"
    assert breaker(CircuitBreaker.open_until) is None


def test_a_probe_that_died_is_followed_by_another_when_its_time_is_over() -> None:
    parked("a", Snooze(10, BUSY))
    come_due()
    assert circuit_breaker._admit("llm", "died", 60)
    parked("b", AssertionError("it asked"))
    with write_session() as session:
        session.execute(update(CircuitBreaker).values(probe_until=now() - 1))
    assert call("b") == "answered"


def test_an_answer_to_a_call_that_began_before_does_not_close_it() -> None:
    with circuit_breaker.circuit("llm", "early", 60):
        parked("b", Snooze(10, BUSY))
    assert parked("c").reason == BUSY


def test_what_comes_back_late_from_before_makes_it_no_shorter() -> None:
    with pytest.raises(Snooze), circuit_breaker.circuit("llm", "early", 60):
        parked("b", Snooze(100, BUSY))
        raise Snooze(1, BUSY)
    assert parked("c").seconds > 90


def test_three_failures_to_connect_in_a_row_open_it_and_spend_no_attempt_from_then_on() -> None:
    for job in ("a", "b"):
        with pytest.raises(ConnectionError):
            call(job, ConnectionError("The server could not be reached."))
    later = parked("c", ConnectionError("The server could not be reached."))
    assert later.seconds == circuit_breaker.AWAY_S and later.reason == "The server could not be reached."
    parked("d", AssertionError("it asked"))


def test_an_answer_in_between_forgets_the_failures() -> None:
    for _ in range(3):
        for _ in range(2):
            with pytest.raises(ConnectionError):
                call("a", ConnectionError())
        call("a")
    assert breaker(CircuitBreaker.failures) == 0


def test_each_server_has_its_own() -> None:
    parked("a", Snooze(10, BUSY))
    with circuit_breaker.circuit("calendar", "b", 60):
        pass


def test_an_error_that_says_nothing_of_the_server_opens_nothing() -> None:
    for _ in range(5):
        with pytest.raises(RuntimeError):
            call("a", RuntimeError("status 500"))
    assert call("b") == "answered"
