"""The interface that a job type's functions see: the job, its document, its owner's ledger. The runner implements these protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from monolith.errors import Snooze
from monolith.rate import Rate

HEAD = 64 * 1024  # bytes of a document that a preview function gets


class Document(Protocol):
    """The document that a job works on."""

    id: str
    title: str
    kind: str
    tags: list[str]
    media_type: str
    filename: str | None
    source_url: str | None
    content: bytes | None

    @property
    def text(self) -> str:
        """The readable text. The first access extracts it, and fetches a page first. Raises `Permanent` if there is none."""

    def keep(self, content: bytes, media_type: str, title: str | None) -> None:
        """Store what was fetched from `source_url`: it is fetched once, and can be downloaded."""


@dataclass(frozen=True)
class SubmittedDocument:
    """A document at its submission, before a worker has read it. `head`: its first HEAD bytes; empty for a page not fetched yet."""

    title: str
    tags: list[str]
    media_type: str
    head: bytes


class Job(Protocol):
    """A running job: the first argument of a job type's function.

    `progress`, `mark` and `spent` raise `Overtaken`, a BaseException to let pass, when the job was stopped or given to another worker.
    """

    id: str
    type: str
    attempt: int  # from 1
    document: Document | None
    owner_email: str  # of who submitted it
    preview: dict[str, Any] | None  # what the type's preview function returned at the submission

    def progress(self, percent: float | None, note: str) -> None:
        """Report progress: 0 to 100, or None while the total is unknown, and the name of the step."""

    def attach(self, name: str, content: bytes, media_type: str) -> None:
        """Attach a file to the result; it replaces one with the same name. Stored in the transaction of the result.

        Raises `Permanent` for content that is not bytes, and for more or larger files than the settings allow (MAX_ARTEFACT_BYTES,
        MAX_ARTEFACT_BYTES_PER_JOB, MAX_ARTEFACTS_PER_JOB).
        """

    def follow_up(self, type: str, params: dict[str, Any], *, priority: str = "normal", delay: float = 0) -> None:
        """Submit another job for the same document when this one finishes, in the transaction of the result. `delay` in seconds."""

    def decide(self, *, route: str, decision: str, score: int | None = None) -> None:
        """Record a decision on the document, in the transaction of the result. The newest decision counts."""

    def deliveries(self) -> Sequence[Delivery]:
        """The webhook deliveries that this job sends, the longest due first. Those that it has recorded are not among them."""

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Let these webhook deliveries, which this job has not begun to send, be sent by another. No attempt is spent."""

    def spent(self, *, input_tokens: int, output_tokens: int, usd: Decimal) -> None:
        """Add to the LLM cost of this job, and of its owner today. Recorded even when the job was given to another worker meanwhile."""

    def over_budget(self) -> Snooze | None:
        """The `Snooze` to raise when a daily LLM budget is used up; None while there is some left."""

    def use_rates(self, costs: Mapping[str, tuple[Rate, float]]) -> None:
        """Charge a call to rates that all jobs share, before it is made: name of the rate, the rate, and what the call costs of it.

        Raises `Snooze` until there is room, and charges nothing then. Call it before `circuit`, which that would open.
        """

    def correct_rates(self, costs: Mapping[str, tuple[Rate, float]]) -> None:
        """Charge what a call has cost more than was charged before it; a negative cost gives back."""

    def circuit(self, server: str, within_s: float) -> AbstractContextManager[None]:
        """A circuit breaker around one call of a server that many jobs need.

        When the block raises `Snooze`, or a few `ConnectionError`s in a row, the breaker opens: all jobs that need the server are
        snoozed. Then one of them is let through as a probe, for `within_s` seconds at most; its success closes the breaker.
        """

    def mark(self, name: str, note: str, *, happened: bool = False) -> None:
        """Record in the job's timeline, at once, that it has reached a step which must not be repeated blindly.

        It outlives this attempt: see `marks`. Record what is about to be done outside before doing it, and the outcome afterwards
        with `happened`: that is recorded even when the job was stopped or given to another worker meanwhile.
        """

    def marks(self) -> list[tuple[str, str]]:
        """Name and note of every mark of this job, from all its attempts, in order."""

    def cached(self, key: str, kept_s: float, made_within_s: float, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The cached value of `make()` for this key. One job at a time makes it, and all use it for `kept_s` seconds.

        made_within_s: the longest that making it takes; other jobs do not wait longer for it.
        """

    def clock(self) -> float:
        """The database's time, in seconds since 1970."""

    def ledger(self, start: float, end: float, types: Sequence[str] = (), owner: str | None = None) -> Ledger:
        """The jobs submitted from `start` to before `end` (seconds since 1970) that this job's owner may see.

        types, owner (e-mail): only these. Raises `Permanent` for an owner whose jobs they may not see.
        """


class FailedJob(Protocol):
    """A job that has failed for good: the argument of `on_failure`. What it requests is stored in the transaction of the failure."""

    id: str
    type: str
    params: dict[str, Any]
    error_type: str
    error_message: str
    document_title: str | None
    owner_email: str

    def follow_up(self, type: str, params: dict[str, Any], *, priority: str = "normal", delay: float = 0) -> None:
        """Submit another job for the same document."""

    def decide(self, *, route: str, decision: str, score: int | None = None) -> None:
        """Record a default decision on the document, flagged as such."""


class Submitter(Protocol):
    """The user who submits a job."""

    is_admin: Any


class Delivery(Protocol):
    """A webhook delivery: one message to one endpoint."""

    id: str  # the same on every attempt
    type: str
    endpoint_id: str
    url: str
    host: str  # of the URL, with its port
    body: str
    timestamp: int  # of this attempt, by the database's clock
    attempts: int  # before this one
    failing_s: float  # how long the endpoint has been failing
    owner_email: str

    @property
    def secrets(self) -> list[str]:
        """The secrets that sign this attempt. Raises `Conflict` if they cannot be decrypted."""

    def record(self, *, is_delivered: bool, again_in: float | None = None, disable: str | None = None, **details: Any) -> bool:
        """Record the outcome of this attempt. Returns whether it has disabled the endpoint.

        again_in: seconds until the next attempt. disable: why the endpoint gets no more deliveries.
        details: response_status, response_text, error, duration.
        """


class JobCount(NamedTuple):
    """The number of jobs with the same values `by`, and their LLM cost."""

    by: tuple[Any, ...]
    jobs: int
    input_tokens: int
    output_tokens: int
    usd: float


class Spread(NamedTuple):
    """Durations of a group of jobs in seconds: median, 95th percentile and the longest."""

    by: Any
    jobs: int
    p50: float
    p95: float
    longest: float


class LedgerRow(NamedTuple):
    """One job of a report. `waited_s` and `ran_s` are those of its last attempt; times in seconds since 1970."""

    id: str
    type: str
    status: str
    priority: str
    document: str | None
    owner: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    waited_s: float | None
    ran_s: float | None
    attempts: int
    interruptions: int
    error_type: str | None
    error_message: str | None
    input_tokens: int
    output_tokens: int
    usd: float


class Ledger(Protocol):
    """The jobs submitted in a period: those of the asking job's owner, or of all users if that is an admin.

    The asking job is left out, and so are internal types unless they are named.
    """

    whose: str | None  # the e-mail of the one user whose jobs they are; None for all users

    def count(self, *by: str, every: int = 1, most: int = 10_000) -> list[JobCount]:
        """The number of jobs per group, the largest groups first.

        by: `type`, `status`, `owner` (e-mail), `error_type`, `day` (periods of `every` days since the start, from 0).
        """

    def spread(self, what: str, by: str | None = None, every: int = 1) -> list[Spread]:
        """Durations per group. what: `ran` or `waited`, of the last attempts. by: as in `count`."""

    def results(self, type: str, *names: str) -> list[tuple[Any, ...]]:
        """The combinations of values that these fields have in the results of a type: the values as text, then the number of jobs."""

    def longest(self, most: int) -> list[LedgerRow]:
        """The jobs that ran longest, at most `most`."""

    def rows(self) -> Iterator[LedgerRow]:
        """Every job, the oldest first. Read in pages."""
