"""What a job that sends a webhook works on. `webhooks.sending` gives it."""

from __future__ import annotations

from typing import Any, Protocol


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
