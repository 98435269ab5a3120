"""A time limit for a block of Python code, in the main thread or in another one."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimedOut(BaseException):
    """The block exceeded its time limit. Derived from BaseException, so that no `except Exception` in it catches it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimedOut` in the block after so many seconds. In the main thread, again every second, in case the block swallows it."""

    if threading.current_thread() is not threading.main_thread():
        with _time_limit_of_thread(seconds):
            yield
        return
    global _is_limited
    if signal.getsignal(signal.SIGALRM) is not _expire:  # then it stays: to set and restore it takes longer than the rest
        signal.signal(signal.SIGALRM, _expire)
    _is_limited = True
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        try:
            yield
        finally:
            _is_limited = False  # an alarm between the block's end and the next line must not leave the timer running
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


_is_limited = False  # whether an alarm ends what the main thread runs


def _expire(number: int, frame: FrameType | None) -> None:
    if _is_limited:
        raise TimedOut


@contextmanager
def _time_limit_of_thread(seconds: float) -> Iterator[None]:
    """`time_limit` outside of the main thread, which alone gets signals: the exception is raised when the thread next runs Python code."""
    thread = ctypes.c_ulong(threading.get_ident())
    guard = threading.Lock()
    is_armed = True

    def expire() -> None:
        with guard:
            if is_armed:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TimedOut))

    timer = threading.Timer(seconds, expire)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with guard:
            is_armed = False
