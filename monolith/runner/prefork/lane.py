"""Where a running job can say that it is done, and only writes down its outcome: from then on it is not killed for being late."""

from __future__ import annotations

import mmap
import threading


class Lane(threading.local):
    """The byte that the job of this thread shares with the parent of its process; None where no parent looks."""

    shared: mmap.mmap | None = None
    number = 0


lane = Lane()


def suspend_limit() -> None:
    """From here on the time limit of this thread's job does not hold."""
    if lane.shared is not None:
        lane.shared[lane.number] = 1
