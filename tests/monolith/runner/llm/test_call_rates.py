"""Rates of calls to a server: who waits, for how long, in which order, and what is charged; on each database."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import update

from monolith.db.engine import write_session
from monolith.db.rates import RateUse
from monolith.errors import Snooze
from monolith.rate import Rate
from monolith.runner.llm import call_rates

pytestmark = [pytest.mark.databases, pytest.mark.usefixtures("intray_settings")]

REQUESTS, TOKENS = "requests to the language model", "tokens of the language model"
AN_HOUR = 3600


def call(job_id: str, requests: int = 60, tokens: int = 0, cost: float = 0) -> float:
    """Charge a call; 0, or the seconds for which its job is snoozed."""
    costs = {REQUESTS: (Rate(requests, AN_HOUR), 1.0), **({TOKENS: (Rate(tokens, AN_HOUR), cost)} if tokens else {})}
    try:
        call_rates.use(job_id, costs)
    except Snooze as snooze:
        return snooze.seconds
    return 0


def pass_time(seconds: float) -> None:
    """As if so much time had passed."""
    with write_session() as session:
        session.execute(update(RateUse).values(next_at=RateUse.next_at - seconds))


def test_calls_over_the_rate_get_slots_one_after_the_other():
    assert [call("a"), call("b")] == [0, 0]
    assert [call(one) for one in "cdef"] == [pytest.approx(wait, abs=30) for wait in (36, 96, 156, 216)]


def test_a_job_that_comes_back_for_its_slot_is_charged_and_others_wait_behind_those_that_have_one():
    for one in "abcd":
        call(one)
    pass_time(40)
    assert call("e") > 60
    assert call("c") == 0
    pass_time(60)
    assert call("d") == 0
    assert call("f") > 60


def test_a_call_that_is_refused_is_charged_nothing():
    assert call("a", tokens=1000, cost=900) == 0
    assert call("b", tokens=1000, cost=900) == pytest.approx(54 * 60, abs=180)
    pass_time(56 * 60)
    assert call("b", tokens=1000, cost=900) == 0


def test_what_a_call_used_less_than_it_said_is_given_back():
    assert call("a", requests=10_000, tokens=1000, cost=900) == 0
    call_rates.correct({TOKENS: (Rate(1000, AN_HOUR), -890.0)})
    assert call("b", requests=10_000, tokens=1000, cost=30) == 0
    call_rates.correct({TOKENS: (Rate(1000, AN_HOUR), 500.0)})
    assert call("c", requests=10_000, tokens=1000, cost=30) == pytest.approx(31 * 60, abs=180)


def test_the_reason_says_the_rate():
    for one in "ab":
        call(one)
    with pytest.raises(Snooze, match=r"^The requests to the language model are limited to 60 an hour\.$"):
        call_rates.use("c", {REQUESTS: (Rate(60, AN_HOUR), 1.0)})


def test_processes_that_call_at_once_never_exceed_it():
    waits: list[float] = []
    callers = [threading.Thread(target=lambda number=number: waits.append(call(f"job {number}"))) for number in range(12)]
    for one in callers:
        one.start()
    for one in callers:
        one.join(30)
    assert waits.count(0) == 2
    slots = sorted(wait for wait in waits if wait)
    assert len(slots) == 10
    assert max(slots) > 8 * 60
