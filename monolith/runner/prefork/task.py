"""The records that the parent's modules pass on: a task, how it left its child, and what is to be written about it in Redis."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from rq.queue import Queue

# A job with one of these fields is run by RQ's own code.
UNUSUAL_FIELDS = (
    b"success_callback_name",
    b"failure_callback_name",
    b"repeats_left",
    b"rate_limit_key",
    b"webhooks",
    b"group_id",
)
MAX_SENT = 100_000  # bytes of fields in one packet to a child; the system's limit for a packet is about 200,000


@dataclass(slots=True, eq=False)
class Task:
    """One execution of an RQ job, from taking it to recording its end.

    `fields` is the job's hash in Redis. Times are of the monotonic clock, except `taken_at`.
    """

    job_id: str
    execution_id: str
    queue: Queue
    fields: dict[bytes, bytes]
    taken_at: datetime
    has_dependents: bool
    io_bound: bool
    ticket: int = 0  # identifies the task between parent and child
    slot: int = 0
    started_at: float = 0.0
    stop_deadline: float = 0.0  # when its child is killed, if the job has not stopped by then; 0: not asked to stop
    killed_because: str = ""
    claim_number: int = 0  # with hooks: fences what is recorded about this run
    claimed: bytes | None = None  # what the hooks have claimed, for the child
    limit: float = field(init=False)
    result_ttl: int | None = field(init=False, default=None)
    defect: str = field(init=False, default="")  # why nobody can run it

    def __post_init__(self) -> None:
        self.limit = float(self.queue.DEFAULT_TIMEOUT)
        try:
            self.limit = float(self.fields.get(b"timeout") or self.limit)
            self.result_ttl = int(self.fields[b"result_ttl"]) if self.fields.get(b"result_ttl") else None
            self.job_id.encode()
        except ValueError:
            self.defect = "its id is not text, or one of its times is not a number"

    @property
    def composite_key(self) -> str:
        """RQ's name of the execution in its sets."""
        return f"{self.job_id}:{self.execution_id}"

    @property
    def is_plain(self) -> bool:
        """Whether the child's short path runs it, and not RQ's own code."""
        return not (self.has_dependents or self.fields.get(b"result_ttl") == b"0" or any(self.fields.get(name) for name in UNUSUAL_FIELDS))

    @property
    def is_large(self) -> bool:
        return sum(map(len, self.fields.values())) > MAX_SENT


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """How a task left its child.

    Reported by the child: `done`, `failed`, `handled` (RQ's own code has recorded it), and `ended` (the hooks have to record it).
    Killed by the parent: `stopped`, `timeout`, `shutdown`, and `taken` (the job is no longer ours).
    Died otherwise: `crashed`; `suspect` where several jobs ran in the child; `innocent` beside a job that the parent killed.
    """

    how: str
    task: Task
    payload: bytes | str = b""
    status: int = 0


@dataclass(slots=True, frozen=True)
class Ending:
    """What to write in Redis about a task that has left.

    how: `finish` with its serialized result, `close` likewise but without result and dependents, `requeue` at the front of its queue,
    `drop` it with its job, `pass` likewise for a job that did not run, whose share gets its turn back, or `refuse` it. What the hooks
    have claimed is closed: it has its own result, and dependents of it in Redis are not its record's. A job that was pushed again
    meanwhile is not dropped.
    """

    how: str
    task: Task
    result: bytes = b""
    ended_at: datetime | None = None
