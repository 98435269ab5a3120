"""Cron expressions of five fields, in UTC: what they say in words, and when they come next. `cronsim` knows the rules."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

from cronsim import CronSim, CronSimError

from monolith.errors import Invalid

LONGEST = 100
PREVIEWED = 5
FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
HOW = (
    "Give five fields: minute, hour, day of the month, month, day of the week. For example '30 6 * * MON' is half past six on Mondays, UTC."
)
SHORT = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *"}


def checked(expression: str) -> str:
    """The expression with single spaces, short ones such as `@daily` written out. Raises `Invalid` saying which field is wrong."""
    given = SHORT.get(expression.strip().lower(), " ".join(expression.split()))
    if len(given) > LONGEST or len(given.split()) != len(FIELDS):
        raise Invalid.field("/cron", HOW)
    try:
        next(CronSim(given, datetime(2000, 1, 1, tzinfo=UTC)))
    except StopIteration:
        raise Invalid.field("/cron", f"{given!r} never comes: no day is like that. Mend the day or the month.") from None
    except (CronSimError, AssertionError, ValueError) as error:
        raise Invalid.field("/cron", _what_is_wrong(given, str(error))) from None
    return given


def _what_is_wrong(given: str, said: str) -> str:
    for name, part in zip(FIELDS, given.split(), strict=True):
        if said == f"Bad {name.replace(' of the ', '-of-')}":
            return f"The {name}, {part!r}, is not right. {HOW}"
    return f"{given!r} is no cron expression. {HOW}"


def explained(expression: str) -> str:
    """In words: `At 06:30 on Monday`."""
    return CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC)).explain()


def following(expression: str, moment: float) -> float:
    """The first time after this moment, in seconds since 1970; both databases keep it to the second."""
    return next(_times(expression, moment))


def upcoming(expression: str, moment: float) -> list[float]:
    """The next PREVIEWED times."""
    return list(islice(_times(expression, moment), PREVIEWED))


def _times(expression: str, moment: float) -> Iterator[float]:
    return (at.timestamp() for at in CronSim(expression, datetime.fromtimestamp(moment, UTC)))
