"""Long polling: wait for a change in a request thread, in at most half of the threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache

from monolith.config import settings

MAX_WAIT_S = 25  # routers give up after 30 s
CHECK_EVERY_S = 0.15


@cache
def _slots() -> threading.BoundedSemaphore:
    """One slot for each thread that may wait. A request without a slot is answered at once, and the client asks again."""
    return threading.BoundedSemaphore(max(1, settings().web_threads // 2))


def wait_until(is_done: Callable[[], bool], seconds: float) -> None:
    """Return once `is_done()`, after `seconds` (MAX_WAIT_S at most), or at once when too many requests wait already."""
    if seconds <= 0 or not _slots().acquire(blocking=False):
        return
    try:
        deadline = time.monotonic() + min(seconds, MAX_WAIT_S)
        while not is_done() and time.monotonic() < deadline:
            time.sleep(CHECK_EVERY_S)
    finally:
        _slots().release()
