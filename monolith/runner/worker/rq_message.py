"""Validates RQ messages: only the job id is trusted.

Whoever can write to Redis could have RQ call any function, import any callback, or send a webhook. Here the function is fixed, and
its argument is the id under which the message was found. The worker refuses messages that ask for more, and keeps them in Redis.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

from rq.job import Job, JobStatus

from monolith.runner.queue.rq_queues import FUNCTION, NEW_FUNCTION
from monolith.runner.worker import execute

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NUMBER = re.compile(rb"-?\d{1,9}")
MAX_DATA = 1000  # bytes: ours has about a hundred
OURS = json.dumps([FUNCTION, None, ["%s"], {}]).encode()  # the call as `rq_queues.push` writes it: most need not be parsed
# The fields that `rq_queues.push`, the worker, and RQ's requeue of a failed job (an empty `exc_info`) write.
EXPECTED_FIELDS = frozenset(
    b"created_at enqueued_at started_at ended_at last_heartbeat data origin description status meta timeout result_ttl failure_ttl "
    b"worker_name exc_info".split()
)
STATUSES = frozenset(one.value.encode() for one in JobStatus)
NUMBERS = (b"timeout", b"result_ttl", b"failure_ttl")


class Message(Job):
    """An RQ job of which only the id is used: whatever its hash says, `execute.run` is called with the id, and nothing else."""

    def restore(self, raw_data: Any) -> None:
        data = json.dumps([FUNCTION, None, [self.id], {}]).encode()
        super().restore({**_trusted(raw_data), b"data": data})

    def perform(self) -> None:
        execute.run(self.id)


def _trusted(raw_data: Any) -> dict[bytes, bytes]:
    """The fields of a hash that are used: numbers, the queue, and the status, by which RQ cleans up after a dead worker."""
    trusted = {name: value for name, value in raw_data.items() if name in NUMBERS and _is_number(value)}
    if raw_data.get(b"origin", b"").isascii():
        trusted[b"origin"] = raw_data.get(b"origin", b"")
    if raw_data.get(b"status") in STATUSES:
        trusted[b"status"] = raw_data[b"status"]
    return trusted


def _is_number(value: bytes) -> bool:
    return NUMBER.fullmatch(value) is not None


def why_refused(job_id: str, fields: dict[bytes, bytes]) -> str:
    """Why a message is not one of Intray's; empty when it is. `fields` is its hash in Redis."""
    if not ID.fullmatch(job_id):
        return "its id was not created by Intray"
    if unexpected := sorted(name for name in fields.keys() - EXPECTED_FIELDS if fields[name]):
        return f"it has an unexpected field {unexpected[0][:40]!r}"
    if invalid := [name.decode() for name in NUMBERS if fields.get(name) and not _is_number(fields[name])]:
        return f"its {invalid[0]} is not a number of seconds"
    try:  # reads JSON only, and little of it
        data = zlib.decompressobj().decompress(fields.get(b"data", b""), MAX_DATA)
        if data == OURS % job_id.encode():
            return ""
        call = json.loads(data)
    except (zlib.error, ValueError, RecursionError):
        call = None
    if call not in ([function, None, [job_id], {}] for function in (FUNCTION, NEW_FUNCTION)):
        return f"it calls something other than {FUNCTION} with its id"
    return ""
