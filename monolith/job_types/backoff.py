"""The retry delay of a job type: `exponential(2)` or `fixed(10)`, in seconds, with jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass

MAX_BACKOFF = 3600.0  # seconds: a job with attempts left is tried at least hourly


@dataclass(frozen=True)
class Backoff:
    """The delay before the next attempt, in seconds. kind: `exponential` or `fixed`."""

    kind: str
    seconds: float

    def delay(self, attempt: int) -> float:
        """Seconds between attempt number `attempt` (from 1) and the next one, with up to 10 % of jitter."""
        factor = 2.0 ** min(attempt - 1, 100) if self.kind == "exponential" else 1
        return min(self.seconds * factor, MAX_BACKOFF) * random.uniform(1.0, 1.1)

    def __str__(self) -> str:
        return f"{self.kind}({self.seconds:g})"


def exponential(seconds: float) -> Backoff:
    """A backoff of `seconds`, doubled after each attempt."""
    return Backoff("exponential", seconds)


def fixed(seconds: float) -> Backoff:
    """A backoff of `seconds` after every attempt."""
    return Backoff("fixed", seconds)
