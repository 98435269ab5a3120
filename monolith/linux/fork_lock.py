"""One at a time, among processes that were forked from one, and their threads."""

from __future__ import annotations

import fcntl
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

POLL_S = 0.005


class ForkLock:
    """Made before the fork. The system takes the turn back when its process dies."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as we are
        self._threads = threading.Lock()

    @contextmanager
    def one(self, within_s: float) -> Iterator[None]:
        """Wait for the turn, and have it in the block. Raises TimeoutError when it does not come in time."""
        give_up_at = time.monotonic() + within_s
        if not self._threads.acquire(timeout=within_s):
            raise TimeoutError("timed out waiting for another thread")
        try:
            self._wait_for_processes(give_up_at)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _wait_for_processes(self, give_up_at: float) -> None:
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError):
                if time.monotonic() > give_up_at:
                    raise TimeoutError("timed out waiting for another process") from None
                time.sleep(POLL_S)
