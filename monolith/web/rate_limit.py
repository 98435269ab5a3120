"""Limits how many requests a user or an address may send, counted in the memory of this process: some microseconds for each request.

Each web process counts by itself, in fixed windows that begin with a caller's first request.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass

from monolith.errors import TooManyRequests
from monolith.rate import Rate

MAX_CALLERS = 10_000  # whose requests one process remembers

_lock = threading.Lock()
_windows: dict[str, tuple[float, int]] = {}  # by caller: when the window ends, and how many requests came in it


@dataclass(frozen=True)
class Remaining:
    """How many more requests a caller may send (negative when there were too many), and the seconds until the window ends."""

    rate: Rate
    number: int
    seconds: int

    def headers(self) -> dict[str, str]:
        """The headers of draft-ietf-httpapi-ratelimit-headers."""
        policy = f'"requests";q={self.rate.amount};w={self.rate.seconds}'
        return {"RateLimit-Policy": policy, "RateLimit": f'"requests";r={max(self.number, 0)};t={self.seconds}'}

    def check(self) -> None:
        """Raises `TooManyRequests` when this request is one too many."""
        if self.number < 0:
            detail = f"You sent more than {self.rate.amount:,} requests within {self.rate.seconds} s. Try again in {self.seconds} s."
            raise TooManyRequests(detail, retry_after=self.seconds)


def count(caller: str, rate: Rate) -> Remaining:
    """Count a request of the caller, and return what remains."""
    moment = time.monotonic()
    with _lock:
        ends_at, requests = _windows.get(caller, (0.0, 0))
        if ends_at <= moment:
            ends_at, requests = moment + rate.seconds, 0
            _make_room(moment)
        _windows[caller] = ends_at, requests + 1
    return Remaining(rate, rate.amount - requests - 1, math.ceil(ends_at - moment))


def _make_room(moment: float) -> None:
    """Forget windows that are over; if as many new callers as that came at once, forget all."""
    if len(_windows) < MAX_CALLERS:
        return
    for caller in [caller for caller, (ends_at, _) in _windows.items() if ends_at <= moment]:
        del _windows[caller]
    if len(_windows) >= MAX_CALLERS:
        _windows.clear()
