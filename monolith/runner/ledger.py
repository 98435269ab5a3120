"""What a job may ask of the ledger: the jobs of a period that its owner may see. `ledger_reading` answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol


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
