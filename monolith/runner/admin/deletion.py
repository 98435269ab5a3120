"""Deletes jobs permanently. No other module does: the trash, retention and the deletion of documents call it."""

from __future__ import annotations

import structlog
from redis import RedisError
from sqlalchemy import ColumnElement, delete, event
from sqlalchemy.orm import Session

from monolith.db.models import Job
from monolith.runner.ledger import balance
from monolith.runner.queue import rq_queues
from monolith.runner.webhooks import endpoints

log = structlog.get_logger()


def delete_jobs(session: Session, *guard: ColumnElement[bool], ended_long_ago: bool = False) -> int:
    """Delete the jobs that match the guard, with their events, files and webhooks, in this transaction. Returns how many.

    They are counted as pruned. After the commit, what Redis has of them is deleted; where Redis is away it stays, which is
    harmless: workers ignore the message of a job that does not exist, and the rest expires.

    ended_long_ago: as retention deletes them. Their webhook deliveries stay, which hold results and may still be sent. Of their
    messages only those of canceled jobs are looked for, which no worker took: a queue is read as a whole.
    """
    statement = delete(Job).where(*guard).returning(Job.id, Job.rq_queue, Job.status).execution_options(synchronize_session=False)
    gone = session.execute(statement).all()
    if not gone:
        return 0
    if not ended_long_ago:
        endpoints.delete_for_jobs(session, [job_id for job_id, *_ in gone])
    balance.record_pruned(session, [status for *_, status in gone])
    queues = {job_id: rq_queue for job_id, rq_queue, _ in gone}
    unclaimed = [job_id for job_id, _, status in gone if status == "canceled" or not ended_long_ago]
    event.listen(session, "after_commit", lambda _: _delete_from_redis(queues, unclaimed), once=True)
    return len(gone)


def _delete_from_redis(queues: dict[str, str], unclaimed: list[str]) -> None:
    if rq_queues.cooldown.is_active:
        return
    try:
        rq_queues.forget(queues, unclaimed)
    except (RedisError, TimeoutError) as error:
        rq_queues.cooldown.start()  # so that many deletions in a row do not each wait for Redis
        log.warning("redis_not_cleaned", jobs=len(queues), error=str(error))
