"""What the function of a job type works with: its job, the document, and who asks. Written down here, made elsewhere in the runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from monolith.errors import Later
from monolith.runner.delivery import Delivery
from monolith.runner.ledger import Ledger

HEAD = 64 * 1024  # bytes of a document that `at_once` may look at


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
    preview: dict[str, Any] | None  # what `at_once` said when it was submitted

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

    def over_budget(self) -> Later | None:
        """Why this job may spend nothing more at an LLM today, as what parks it until it may; None while it may."""

    def calling(self, server: str, within_s: float) -> AbstractContextManager[None]:
        """Around one call of a server that many jobs need. `Later` raised within, or a few `ConnectionError`s in a row, park all
        those jobs for as long; then one is let through, for `within_s` seconds at most, and the others when it had an answer."""

    def mark(self, name: str, note: str, *, happened: bool = False) -> None:
        """Write down at once, in the timeline, that the job has come to a step which must not be repeated blindly.

        It outlives this attempt: see `marks`. Write what is about to be done outside before, and what came of it after, with
        `happened`: then it is written even when the job was stopped or given to another worker meanwhile.
        """

    def marks(self) -> list[tuple[str, str]]:
        """Every mark that this job has made in any of its attempts, in order: name and note."""

    def once(self, key: str, kept_s: float, made_within_s: float, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
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
