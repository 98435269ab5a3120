"""Asks the ledger about many jobs at once, and puts off what it does not do now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from monolith.db.away import DatabaseAway, outage
from monolith.runner.ledger import lifecycle
from monolith.runner.prefork.hooks import LATER

Call = Callable[[list[Any]], Sequence[Any]]
log = structlog.get_logger()


class LedgerCalls:
    """Calls with a list of what is asked, and returns the answer to each: `LATER` for jobs whose rows are locked, and for all while the
    database is away.

    Each transition is fenced, so a repeated one changes nothing.
    """

    def __init__(self) -> None:
        self._locked: set[str] = set()  # jobs whose rows somebody else had locked
        self._refusal = ""  # the last error that is not of an outage, logged once as long as it stays the same

    def ask(self, call: Call, asked: list[Any], errors: type[DBAPIError] = DatabaseAway) -> list[Any]:
        """`errors` are those that put off what was asked; others are raised. What the database does not take alone either is put off."""
        try:
            if self._locked:
                self._locked = lifecycle.locked(self._locked)
            free = [one for one in asked if job_id_of(one) not in self._locked]
            answers = iter(call(free) if free else [])
        except errors as error:
            return self._ask_apart(call, asked, errors, error)
        if free:
            outage.ended()
        return [LATER if job_id_of(one) in self._locked else next(answers) for one in asked]

    def _ask_apart(self, call: Call, asked: list[Any], errors: type[DBAPIError], error: DBAPIError) -> list[Any]:
        """Ask again without the jobs whose rows are locked, or else for each alone."""
        try:
            locked = lifecycle.locked([job_id_of(one) for one in asked]) - self._locked
        except errors as again:
            if isinstance(again, DatabaseAway):
                outage.began(again)
            else:
                self._log(again, [])
            return [LATER for _ in asked]
        self._log(error, sorted(locked))
        if locked:
            self._locked |= locked
            return self.ask(call, asked, errors)
        if len(asked) == 1:
            return [LATER]
        return [answer for one in asked for answer in self.ask(call, [one], errors)]

    def _log(self, error: DBAPIError, locked: list[str]) -> None:
        if (refusal := str(error.orig).strip()) != self._refusal:
            self._refusal = refusal
            log.warning("ledger_refused", error=refusal, locked=locked)


def send_heartbeats(claims: list[tuple[str, int]]) -> list[bool]:
    """Record that these jobs are running, for `LedgerCalls.ask`. Whether each is still run under its claim."""
    held = set(lifecycle.heartbeat_each(claims))
    return [claim in held for claim in map(tuple, claims)]


def job_id_of(asked: Any) -> str:
    """The job's id, which is all that was asked or its first part."""
    job_id: str = asked if isinstance(asked, str) else asked[0]
    return job_id
