"""How many requests a user or an address may send, counted in the memory of this process: it costs a request next to nothing.

Each web process counts for itself, in windows that begin with a caller's first request.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from functools import cache

from limits import parse

from monolith.errors import BadSetting, TooManyRequests

MOST_CALLERS = 10_000  # whose requests one process remembers

_lock = threading.Lock()
_windows: dict[str, tuple[float, int]] = {}  # by caller: when it ends, and how many requests came in it


@dataclass(frozen=True)
class Rate:
    amount: int
    seconds: int


@dataclass(frozen=True)
class Left:
    """What a caller may still send, and the seconds until it is all of it again."""

    rate: Rate
    number: int
    seconds: int

    def headers(self) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers has it."""
        policy = f'"requests";q={self.rate.amount};w={self.rate.seconds}'
        return {"RateLimit-Policy": policy, "RateLimit": f'"requests";r={max(self.number, 0)};t={self.seconds}'}

    def check(self) -> None:
        """Raises `TooManyRequests` when it was one too many."""
        if self.number < 0:
            detail = f"You sent more than {self.rate.amount:,} requests within {self.rate.seconds} s. Try again in {self.seconds} s."
            raise TooManyRequests(detail, retry_after=self.seconds)


@cache
def rate_of(setting: str) -> Rate | None:
    """The rate that a setting such as `1200 per minute` means; None for an empty one or 0. Raises `BadSetting`."""
    if setting.strip() in ("", "0"):
        return None
    try:
        item = parse(setting)
    except ValueError:
        raise BadSetting(f"{setting!r} is not a request rate: write it as '1200 per minute', or 0 for no limit.") from None
    return Rate(item.amount, int(item.get_expiry()))


def count(caller: str, rate: Rate) -> Left:
    """Count a request of the caller."""
    moment = time.monotonic()
    with _lock:
        ends_at, came = _windows.get(caller, (0.0, 0))
        if ends_at <= moment:
            ends_at, came = moment + rate.seconds, 0
            _make_room(moment)
        _windows[caller] = ends_at, came + 1
    return Left(rate, rate.amount - came - 1, math.ceil(ends_at - moment))


def _make_room(moment: float) -> None:
    """Forget windows that are over; when so many callers are new at once that this does not help, all."""
    if len(_windows) < MOST_CALLERS:
        return
    for caller in [caller for caller, (ends_at, _) in _windows.items() if ends_at <= moment]:
        del _windows[caller]
    if len(_windows) >= MOST_CALLERS:
        _windows.clear()
