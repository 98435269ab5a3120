"""A cache for answers that cost money or minutes, in SQL: each is made once, by one job at a time, and used by all that need it.

A job that finds no answer claims the key with a row without an answer, and makes the answer; others wait for that row. The claim
of a job that died expires. The cache never fails a job: without the database, each job makes its own answer.
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
    """The cached answer for this key; without one, the result of `make`, which is then cached for `kept_s` seconds.

    While another job makes the answer, waits for it, at most `made_within_s` seconds. Raises what `make` raises; nothing is
    cached then.
    """
    maker = new_id()
    give_up_at = time.monotonic() + made_within_s
    while time.monotonic() < give_up_at:
        try:
            with read_session() as session:
                answer: Answer | None = session.scalar(select(LlmAnswer.answer).where(LlmAnswer.key == key, LlmAnswer.expires_at > now()))
            if answer is not None:
                return answer
            is_ours = _claim(key, maker, made_within_s)
        except SQLAlchemyError as error:
            log.warning("llm_cache_unavailable", error=str(error))
            break
        if is_ours:
            return _make_and_store(key, maker, kept_s, make)
        time.sleep(POLL_S)
    return make()


def _claim(key: str, maker: str, seconds: float) -> bool:
    """Insert a row without an answer, in place of an expired one. False when another job has claimed the key."""
    try:
        with write_session() as session:
            session.execute(delete(LlmAnswer).where(LlmAnswer.key == key, LlmAnswer.expires_at <= now()))
            session.execute(insert(LlmAnswer).values(key=key, maker=maker, expires_at=now() + seconds))
    except IntegrityError:
        return False
    return True


def _make_and_store(key: str, maker: str, kept_s: float, make: Callable[[], Answer]) -> Answer:
    try:
        answer = make()
    except BaseException:  # a time limit too: the next job need not wait until the claim expires
        with suppress(SQLAlchemyError), write_session() as session:
            session.execute(delete(LlmAnswer).where(LlmAnswer.key == key, LlmAnswer.maker == maker))
        raise
    try:
        with write_session() as session:
            ours = update(LlmAnswer).where(LlmAnswer.key == key, LlmAnswer.maker == maker)
            session.execute(ours.values(answer=answer, created_at=now(), expires_at=now() + kept_s))
        _delete_oldest()
    except SQLAlchemyError as error:
        log.warning("llm_cache_write_failed", error=str(error))
    return answer


def _delete_oldest() -> None:
    """Keep the newest MOST_KEPT answers. Answers that are being made are not touched."""
    newest = select(LlmAnswer.key).order_by(LlmAnswer.created_at.desc()).limit(MOST_KEPT)
    with write_session() as session:
        old = or_(LlmAnswer.expires_at <= now(), LlmAnswer.answer.is_not(None) & LlmAnswer.key.not_in(newest))
        session.execute(delete(LlmAnswer).where(old).execution_options(synchronize_session=False))
