"""A stream tells one client what happens to a job, or to all jobs of a user, as server-sent events; the ledger says what that is.

Each event has the number of its row in `job_events` as its id, and the job as it is *now*: whoever has missed something is right
again with the next one. How far a job is within a step has no row, and so no id.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row

from monolith.db.models import MARK, OVER
from monolith.runner.ledger import events
from monolith.runner.ledger.events import Position, SafePosition
from monolith.runner.webhooks.payloads import rfc3339

RECONNECT_MS = 3000  # what a browser waits before it comes back
MAX_AGE_S = 300.0  # then it has to come back, and say anew who it is
MAX_BEHIND = 10_000  # events of everybody: who was away for longer reads the list instead
HEARTBEAT = ": here\n\n"
GREETING = f"retry: {RECONNECT_MS}\n\n"
FROM_NOW_ON = -1
UNKNOWN = (None, None)  # how far a job is that has not said so


@dataclass
class Stream:
    """What one client is told. `after`: the number of the last event it knows; a job's begin at 0, a user's FROM_NOW_ON."""

    user_id: int
    sees_all: bool
    job_id: str | None
    after: int
    is_over: bool = False
    opened_at: float = field(default_factory=time.monotonic)
    shown: dict[str, tuple[float | None, str | None]] = field(default_factory=dict)  # how far each running job is, as told last

    @property
    def is_old(self) -> bool:
        return time.monotonic() - self.opened_at > MAX_AGE_S

    def tell_of_job(self, rows: list[Row[Any]]) -> str:
        """Its job's news. It is over when the job is, or is gone."""
        told = self._tell(row for row in rows if row.number is not None)
        self.is_over = not rows or rows[-1].status in OVER
        return told + self._tell_progress(rows[-1:])

    def tell_of_user(self, rows: list[Row[Any]], running: list[Row[Any]], until: int) -> str:
        """The news of the user's jobs up to the event `until`."""
        told = self._tell(row for row in rows if self._may_see(row))
        self.after = max(self.after, until)
        return told + self._tell_progress([row for row in running if self._may_see(row)])

    def catch_up(self, position: int) -> str:
        """Begin here, where it has no beginning yet, or one that lies too far back or is another ledger's."""
        if self.after != FROM_NOW_ON and abs(position - self.after) <= MAX_BEHIND:
            return ""
        name = "ready" if self.after == FROM_NOW_ON else "missed"
        self.after = position
        return _message(name, {}, position)

    def _may_see(self, row: Row[Any]) -> bool:
        return self.sees_all or row.owner_id == self.user_id

    def _tell(self, rows: Iterator[Row[Any]]) -> str:
        told = []
        for row in rows:
            if row.number > self.after:
                self.after, self.shown[row.job_id] = row.number, (row.progress, row.progress_note)
                told.append(_message(_kind(row.name), _happened(row), row.number))
        return "".join(told)

    def _tell_progress(self, rows: list[Row[Any]]) -> str:
        """How far running jobs are, where that has changed since they were told of."""
        now = {row.job_id: (row.progress, row.progress_note) for row in rows if row.status == "started"}
        before, self.shown = self.shown, now
        changed = {job_id for job_id, shown in now.items() if shown != before.get(job_id, UNKNOWN)}
        return "".join(_message("progress", _state(row)) for row in rows if row.job_id in changed)


def _kind(name: str) -> str:
    """Steps and marks leave the status as it is."""
    return "progress" if name == "progress" or name.startswith(MARK) else "status"


def _state(row: Row[Any]) -> dict[str, Any]:
    """The job as it is now."""
    return {"job_id": row.job_id, "type": row.type, "status": row.status, "progress": row.progress, "progress_note": row.progress_note}


def _happened(row: Row[Any]) -> dict[str, Any]:
    note = None if row.name == "started" else row.note  # that of a start names the worker
    event = {"event": row.name, "at": rfc3339(row.at), "note": note, "attempt": row.attempt, "max_attempts": row.max_attempts}
    return {**_state(row), **event}


def _message(name: str, data: dict[str, Any], number: int | None = None) -> str:
    numbered = "" if number is None else f"id: {number}\n"
    return f"{numbered}event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


class Feed:
    """Reads the ledger for any number of streams: a query for all jobs that are watched, two for all users who watch theirs."""

    def __init__(self) -> None:
        self._horizon = SafePosition()

    def read(self, streams: Collection[Stream]) -> Iterator[tuple[Stream, str]]:
        """What each stream has to tell now; an empty text where that is nothing."""
        of_jobs = [stream for stream in streams if stream.job_id is not None]
        of_users = [stream for stream in streams if stream.job_id is None]
        if of_jobs:
            yield from _read_jobs(of_jobs)
        if not of_users:
            self._horizon = SafePosition()  # what was noted while somebody listened is old when the next one does
        elif mark := self._horizon.advance():
            yield from _read_users(of_users, mark)


def _read_jobs(streams: list[Stream]) -> Iterator[tuple[Stream, str]]:
    after: dict[str, int] = {}
    for stream in streams:
        after[stream.job_id or ""] = min(stream.after, after.get(stream.job_id or "", stream.after))
    rows: dict[str, list[Row[Any]]] = {}
    for row in events.of_jobs(after):
        rows.setdefault(row.job_id, []).append(row)
    for stream in streams:
        yield stream, stream.tell_of_job(rows.get(stream.job_id or "", []))


def _read_users(streams: list[Stream], mark: Position) -> Iterator[tuple[Stream, str]]:
    begun = {id(stream): stream.catch_up(mark.position) for stream in streams}
    owners = None if any(stream.sees_all for stream in streams) else {stream.user_id for stream in streams}
    after = min(stream.after for stream in streams)
    rows = events.of_owners(owners, after, mark.position) if after < mark.position else []
    until = rows[-1].number if len(rows) == events.STEP else mark.position
    running = events.running_of(owners)
    for stream in streams:
        yield stream, begun[id(stream)] + stream.tell_of_user(rows, running, until)
