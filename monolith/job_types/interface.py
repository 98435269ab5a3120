"""What the function of a job type works with: its job, the document, and who asks. Written down here, made elsewhere in the runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from monolith.errors import Snooze

HEAD = 64 * 1024  # bytes of a document that `preview` may read


class Document(Protocol):
    """The document a job works on, as its function sees it."""

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
        """The readable text, extracted (and fetched, for a page) when first asked. Raises `Permanent` if there is none."""

    def keep(self, content: bytes, media_type: str, title: str | None) -> None:
        """Store what was fetched from `source_url`, so that it can be downloaded and is fetched once."""


@dataclass(frozen=True)
class Handed:
    """A document as it was handed in, before any worker has read it: its first HEAD bytes, none of a page that is not fetched."""

    title: str
    tags: list[str]
    media_type: str
    head: bytes


class Job(Protocol):
    """A running job, as its function sees it."""

    id: str
    type: str
    attempt: int
    document: Document | None
    owner_email: str  # of who submitted it
    preview: dict[str, Any] | None  # the values that `preview` gave on submission

    def progress(self, percent: float | None, note: str) -> None:
        """Say how far the job is: 0..100, or None when the total is unknown, and the name of the step."""

    def attach(self, name: str, content: bytes, media_type: str) -> None:
        """Keep a file with the job. It is stored with the result, in one transaction."""

    def follow_up(self, type: str, params: dict[str, Any], *, priority: str = "normal", delay: float = 0) -> None:
        """Submit another job when this one finishes, in the same transaction as its result."""

    def decide(self, *, route: str, decision: str, score: int | None = None) -> None:
        """Write on the document what was decided on it, in the same transaction as the result. The newest decision counts."""

    def delivery(self, delivery_id: str) -> Delivery | None:
        """What a webhook is to be told by this job. None when it is no longer this job's to send."""

    def spent(self, *, input_tokens: int, output_tokens: int, usd: Decimal) -> None:
        """Add to what this job cost at an LLM, and its owner today."""

    def over_budget(self) -> Snooze | None:
        """Why this job may spend nothing more at an LLM today, as what parks it until it may; None while it may."""

    def circuit(self, server: str, within_s: float) -> AbstractContextManager[None]:
        """Around one call of a server that many jobs need. `Later` raised within, or a few `ConnectionError`s in a row, park all
        those jobs for as long; then one is let through, for `within_s` seconds at most, and the others when it had an answer."""

    def mark(self, name: str, note: str, *, happened: bool = False) -> None:
        """Write down at once, in the timeline, that the job has come to a step which must not be repeated blindly.

        It outlives this attempt: see `marks`. Write what is about to be done outside before, and what came of it after, with
        `happened`: then it is written even when the job was stopped or given to another worker meanwhile.
        """

    def marks(self) -> list[tuple[str, str]]:
        """Every mark that this job has made in any of its attempts, in order: name and note."""

    def cached(self, key: str, kept_s: float, made_within_s: float, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gives for this key, made by one job at a time and kept `kept_s` seconds for all that ask the same.

        `made_within_s`: how long making it takes at most; a job waits no longer for another's.
        """

    def clock(self) -> float:
        """Seconds since 1970 by the database's clock."""

    def ledger(self, start: float, end: float, types: Sequence[str] = (), owner: str | None = None) -> Ledger:
        """The jobs submitted in a period that this job's owner may see, of these types and of one owner (e-mail) where given.

        Raises `Permanent` for an owner whose jobs they may not see.
        """


class FailedJob(Protocol):
    """A job that has failed for good, as its type's `on_failure` sees it: what it asks for is kept in the transaction of the failure."""

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
        """Write on the document what holds in place of a decision; it is flagged as defaulted."""


class Submitter(Protocol):
    """Who asks for a job."""

    is_admin: Any


class Delivery(Protocol):
    """What one endpoint is to be told, as the job that sends it sees it."""

    id: str  # the same on every attempt
    type: str
    url: str
    body: str
    secrets: list[str]
    timestamp: int  # of this attempt, by the database's clock
    attempts: int  # before this one
    failing_s: float  # how long the endpoint has been failing
    owner_email: str

    def record(self, *, is_delivered: bool, again_in: float | None = None, disable: str | None = None, **told: Any) -> bool:
        """Write down what came of this attempt, and when the next one is; `disable` says why the endpoint gets nothing more.

        told: response_status, response_text, error, duration. True when the endpoint was disabled by this.
        """


class Count(NamedTuple):
    """So many jobs that have `by` in common, and what they spent at an LLM."""

    by: tuple[Any, ...]
    jobs: int
    input_tokens: int
    output_tokens: int
    usd: float


class Spread(NamedTuple):
    """How many seconds something took: half of the jobs took at most `p50`, 95 of 100 at most `p95`."""

    by: Any
    jobs: int
    p50: float
    p95: float
    longest: float


class LedgerRow(NamedTuple):
    """One job. `waited_s` and `ran_s` are of its last attempt."""

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
    """The jobs that were submitted in a period: the owner's own, or those of all where the owner is an admin.

    The job that asks is not among them, nor those that Intray submits by itself unless their type is named.
    """

    whose: str | None  # the e-mail of the one user whose jobs they are

    def count(self, *by: str, every: int = 1, most: int = 10_000) -> list[Count]:
        """How many jobs have these in common, the most frequent first.

        by: `type`, `status`, `owner` (e-mail), `error_type`, and `day`: since the beginning, in steps of `every` days, from 0.
        """

    def spread(self, what: str, by: str | None = None, every: int = 1) -> list[Spread]:
        """How long jobs `ran` or `waited`: their last attempts."""

    def results(self, type: str, *names: str) -> list[tuple[Any, ...]]:
        """How often these fields of the results of a type had which values: the values as text, and the number."""

    def longest(self, most: int) -> list[LedgerRow]:
        """The jobs that ran the longest."""

    def rows(self) -> Iterator[LedgerRow]:
        """Every job, the oldest first, read some at a time."""
