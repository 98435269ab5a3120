"""One execution of one RQ job in this worker, from the moment it is taken to the moment its end is written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from rq.queue import Queue

# What a plain execution needs none of. Where one of these is set, RQ's own code runs the job.
UNUSUAL = (
    b"success_callback_name",
    b"failure_callback_name",
    b"repeats_left",
    b"rate_limit_key",
    b"webhooks",
    b"group_id",
)
LARGEST_SENT = 100_000  # bytes in one message to a child; the system's limit for a packet is about 200,000


@dataclass(slots=True, eq=False)
class Task:
    """A job that was taken: `fields` are those of its hash. Times are of the monotonic clock, but for `taken_at`."""

    job_id: str
    execution_id: str
    queue: Queue
    fields: dict[bytes, bytes]
    taken_at: datetime
    has_dependents: bool
    waits: bool
    ticket: int = 0  # what child and parent call it
    lane: int = 0
    began: float = 0.0
    stopped_by: float = 0.0  # when it must have ended that was told to stop; 0 when it was not
    was_held: bool = False
    killed_because: str = ""
    limit: float = field(init=False)
    result_ttl: int | None = field(init=False, default=None)
    oddity: str = field(init=False, default="")  # why nobody can run it

    def __post_init__(self) -> None:
        self.limit = float(self.queue.DEFAULT_TIMEOUT)
        try:
            self.limit = float(self.fields.get(b"timeout") or self.limit)
            self.result_ttl = int(self.fields[b"result_ttl"]) if self.fields.get(b"result_ttl") else None
            self.job_id.encode()
        except ValueError:
            self.oddity = "its id is not text, or one of its times is not a number"

    @property
    def composite_key(self) -> str:
        """What RQ calls the execution in its sets."""
        return f"{self.job_id}:{self.execution_id}"

    @property
    def is_plain(self) -> bool:
        """Whether our own short path runs it; see UNUSUAL."""
        return not (self.has_dependents or self.fields.get(b"result_ttl") == b"0" or any(self.fields.get(name) for name in UNUSUAL))

    @property
    def is_large(self) -> bool:
        return sum(map(len, self.fields.values())) > LARGEST_SENT


@dataclass(slots=True, frozen=True)
class Ending:
    """How a task ended: `done` with its serialized result, `back` to the front of its queue, `dropped` with its job, or put `aside`."""

    how: str
    task: Task
    result: bytes = b""
    ended_at: datetime | None = None
