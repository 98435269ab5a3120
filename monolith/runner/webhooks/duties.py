"""What the clock does for webhooks in each tick: read what happened, tell how far jobs are, and send what is due."""

from __future__ import annotations

from collections.abc import Iterator

from monolith.runner.webhooks.dispatch import dispatch
from monolith.runner.webhooks.outbox import Outbox, Progress


class Webhooks:
    """Where the clock is in it."""

    def __init__(self) -> None:
        self._outbox = Outbox()
        self._progress = Progress()

    def work(self) -> Iterator[None]:
        yield from self._outbox.read()
        self._progress.tell()
        yield
        yield from dispatch()
