"""How long a job waits before it is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass

MAX_BACKOFF = 3600.0  # seconds: a job that may still succeed is tried at least hourly


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next attempt, in seconds."""

    kind: str
    seconds: float

    def delay(self, attempt: int) -> float:
        """Seconds before the attempt after `attempt` (1 is the first), with up to 10 % of jitter."""
        factor = 2 ** (attempt - 1) if self.kind == "exponential" else 1
        return min(self.seconds * factor, MAX_BACKOFF) * random.uniform(1.0, 1.1)

    def __str__(self) -> str:
        return f"{self.kind}({self.seconds:g})"


def exponential(seconds: float) -> Backoff:
    """Wait `seconds`, then twice as long each time."""
    return Backoff("exponential", seconds)


def fixed(seconds: float) -> Backoff:
    """Wait `seconds` each time."""
    return Backoff("fixed", seconds)
