"""Waiting for a job to move, without holding every thread of the web process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache

from monolith.config import settings

MAX_WAIT_S = 25  # a router in front gives up after 30 s
LOOK_EVERY_S = 0.15


@cache
def _seats() -> threading.BoundedSemaphore:
    """At most half of the threads wait; whoever finds no seat is answered at once and asks again."""
    return threading.BoundedSemaphore(max(1, settings().web_threads // 2))


def wait_until(is_enough: Callable[[], bool], seconds: float) -> None:
    """Return once `is_enough()`, after `seconds`, or at once when too many wait already."""
    if seconds <= 0 or not _seats().acquire(blocking=False):
        return
    try:
        give_up_at = time.monotonic() + min(seconds, MAX_WAIT_S)
        while not is_enough() and time.monotonic() < give_up_at:
            time.sleep(LOOK_EVERY_S)
    finally:
        _seats().release()
