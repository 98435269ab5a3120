"""Answers that cost money or minutes, kept in SQL by what was asked: made once, by one at a time, used by all who ask the same.

Who finds no answer claims it by a row without one, and makes it; others wait for that row. A maker that dies lets its claim
run out. Nothing here can fail a job: where the database cannot help, each makes its own answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import LlmAnswer, new_id

Answer = dict[str, Any]

MOST_KEPT = 1000
POLL_S = 0.2

log = structlog.get_logger()


def cached(key: str, kept_s: float, made_within_s: float, make: Callable[[], Answer]) -> Answer:
    """The answer of this key: kept from the last `kept_s` seconds, else made now and kept.

    While another makes it, it is waited for, at most `made_within_s` seconds. Raises what `make` raises, and then keeps nothing.
    """
    maker = new_id()
    give_up_at = time.monotonic() + made_within_s
    while time.monotonic() < give_up_at:
        try:
            if (answer := _kept(key)) is not None:
                return answer
            is_ours = _claim(key, maker, made_within_s)
        except SQLAlchemyError as error:
            log.warning("llm_cache_unavailable", error=str(error))
            break
        if is_ours:
            return _made(key, maker, kept_s, make)
        time.sleep(POLL_S)
    return make()


def _kept(key: str) -> Answer | None:
    with read_session() as session:
        return session.scalar(select(LlmAnswer.answer).where(LlmAnswer.key == key, LlmAnswer.expires_at > now()))


def _claim(key: str, maker: str, seconds: float) -> bool:
    """Put the row without an answer, where there is none or one that has run out. False when another has it."""
    try:
        with write_session() as session:
            session.execute(delete(LlmAnswer).where(LlmAnswer.key == key, LlmAnswer.expires_at <= now()))
            session.execute(insert(LlmAnswer).values(key=key, maker=maker, expires_at=now() + seconds))
    except IntegrityError:
        return False
    return True


def _made(key: str, maker: str, kept_s: float, make: Callable[[], Answer]) -> Answer:
    try:
        answer = make()
    except BaseException:  # a time limit too: the next one need not wait for the claim to run out
        with suppress(SQLAlchemyError), write_session() as session:
            session.execute(delete(LlmAnswer).where(LlmAnswer.key == key, LlmAnswer.maker == maker))
        raise
    try:
        _keep(key, maker, kept_s, answer)
        _drop_the_oldest()
    except SQLAlchemyError as error:
        log.warning("llm_cache_write_failed", error=str(error))
    return answer


def _keep(key: str, maker: str, kept_s: float, answer: Answer) -> None:
    with write_session() as session:
        ours = update(LlmAnswer).where(LlmAnswer.key == key, LlmAnswer.maker == maker)
        session.execute(ours.values(answer=answer, created_at=now(), expires_at=now() + kept_s))


def _drop_the_oldest() -> None:
    """Keep MOST_KEPT; what another is making now is not touched."""
    newest = select(LlmAnswer.key).order_by(LlmAnswer.created_at.desc()).limit(MOST_KEPT)
    with write_session() as session:
        old = or_(LlmAnswer.expires_at <= now(), LlmAnswer.answer.is_not(None) & LlmAnswer.key.not_in(newest))
        session.execute(delete(LlmAnswer).where(old).execution_options(synchronize_session=False))
