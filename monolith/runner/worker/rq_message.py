"""What a worker believes of what it finds in Redis: that there may be a job with this id, and nothing else.

Who can write to Redis could have RQ call any function, import any callback, or send a webhook. Here the function is fixed, and it
gets the id by which the message was found. What asks for more is refused and put aside; see `prefork.settling`.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

from rq.job import Job, JobStatus

from monolith.runner.queue.rq_queues import FUNCTION
from monolith.runner.worker import execute

FORMER_FUNCTION = "monolith.runner.running.run"  # in messages that were queued before the upgrade to 0.9; until 0.10
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MAX_DATA = 1000  # bytes: ours has about a hundred
# What `queues.push`, the worker, and RQ where it requeues a failed one (an empty `exc_info`) write down, and no more.
PLAIN = frozenset(
    b"created_at enqueued_at started_at ended_at last_heartbeat data origin description status meta timeout result_ttl failure_ttl "
    b"worker_name exc_info".split()
)
STATUSES = frozenset(one.value.encode() for one in JobStatus)
NUMBERS = (b"timeout", b"result_ttl", b"failure_ttl")


class Message(Job):
    """RQ's job, of which only the id is used: whatever its hash says, `run` is called with the id, and nothing else is ever called."""

    def restore(self, raw_data: Any) -> None:
        super().restore({**_plain(raw_data), b"data": _data(self.id)})

    def perform(self) -> None:
        execute.run(self.id)


def _plain(raw_data: Any) -> dict[bytes, bytes]:
    """What may be believed of a hash: numbers, the queue, and the status, by which RQ tidies up after a dead worker."""
    believed = {name: value for name, value in raw_data.items() if name in NUMBERS and _is_number(value)}
    if raw_data.get(b"origin", b"").isascii():
        believed[b"origin"] = raw_data.get(b"origin", b"")
    if raw_data.get(b"status") in STATUSES:
        believed[b"status"] = raw_data[b"status"]
    return believed


def _is_number(value: bytes) -> bool:
    return re.fullmatch(rb"-?\d{1,9}", value) is not None


def _data(job_id: str) -> bytes:
    return json.dumps([FUNCTION, None, [job_id], {}]).encode()


def why_refused(job_id: str, fields: dict[bytes, bytes]) -> str:
    """Why what was found under this id is no message of ours; nothing when it is one."""
    if not ID.fullmatch(job_id):
        return "its id was not created by Intray"
    if more := sorted(name for name, value in fields.items() if value and name not in PLAIN):
        return f"it has an unexpected field {more[0][:40]!r}"
    if odd := [name.decode() for name in NUMBERS if fields.get(name) and not _is_number(fields[name])]:
        return f"its {odd[0]} is not a number of seconds"
    if _call(fields.get(b"data", b"")) not in ([function, None, [job_id], {}] for function in (FUNCTION, FORMER_FUNCTION)):
        return f"it calls something other than {FUNCTION} with its id"
    return ""


def _call(data: bytes) -> Any:
    """What it wants called. JSON alone is read; None for anything else."""
    try:
        return json.loads(zlib.decompressobj().decompress(data, MAX_DATA))
    except (zlib.error, ValueError, RecursionError):
        return None
