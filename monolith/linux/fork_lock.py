"""A mutex for processes that were forked from one, and for their threads."""

from __future__ import annotations

import fcntl
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

POLL_S = 0.005


class ForkLock:
    """Create it before the fork. The system releases the lock when the process that holds it dies."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the lock exists
        self._threads = threading.Lock()

    @contextmanager
    def acquire(self, timeout_s: float) -> Iterator[None]:
        """Hold the lock in the block. Raises TimeoutError when it is not free in time."""
        give_up_at = time.monotonic() + timeout_s
        if not self._threads.acquire(timeout=timeout_s):
            raise TimeoutError("timed out waiting for another thread")
        try:
            self._lock_file(give_up_at)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _lock_file(self, give_up_at: float) -> None:
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError):
                if time.monotonic() > give_up_at:
                    raise TimeoutError("timed out waiting for another process") from None
                time.sleep(POLL_S)
