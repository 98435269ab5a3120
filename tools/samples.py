"""A week of made-up samples, so that the charts of a new installation have something to show: for `tools/screenshots.py`."""

from __future__ import annotations

import math
import random
import sqlite3
import time
from pathlib import Path

MINUTE, DAY, DAYS = 60, 86400, 7
BAD_HOURS = (4, 5)  # ago: the mail server was away, and everything waited
RATES = {"analyze": 9, "quality_check": 4, "generate_docs": 2, "email": 6, "enhance": 3, "build": 2}
COLUMNS = ("at", "queue", "type", "queued", "scheduled", "started", "finished", "failed", "mean_wait_s", "mean_run_s", "oldest_waiting_s")


def seed(database: Path, minutes: int = DAYS * DAY // MINUTE) -> None:
    """Add so many minutes of them to this SQLite ledger, up to now."""
    end = int(time.time()) // MINUTE * MINUTE
    rows = [_row(end - minute * MINUTE, minute, name) for minute in range(minutes) for name in RATES]
    with sqlite3.connect(database, timeout=30) as connection:
        names, places = ", ".join(COLUMNS), ", ".join("?" * len(COLUMNS))
        connection.executemany(f"INSERT INTO samples ({names}) VALUES ({places})", rows)  # noqa: S608 - both are constants


def _row(at: int, minutes_ago: int, name: str) -> tuple[float | str, ...]:
    chance = random.Random(f"{name} {minutes_ago}")
    is_bad = BAD_HOURS[0] * 60 < minutes_ago <= BAD_HOURS[1] * 60
    usual = RATES[name] * (1 + 0.7 * math.sin(2 * math.pi * at / DAY + len(name)))
    failed = int(chance.random() < 0.03) + 3 * (is_bad and name == "email")
    waited = abs(chance.gauss(2, 0.6)) * (12 if is_bad else 1)
    finished = max(0, round(chance.gauss(usual, 1.2)))
    return (
        at,
        "default",
        name,
        chance.randrange(4),
        0,
        1,
        finished,
        failed,
        waited,
        abs(chance.gauss(0.8, 0.3)),
        waited * chance.uniform(1, 3),
    )
