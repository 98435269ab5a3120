"""Server-sent events for one client about one job, or about all jobs of a user, read from the ledger.

The id of an event is the number of its row in `job_events`. Each event carries the *current* state of the job, so a client that missed
events is up to date with the next one. Progress within a step has no row, and so no id.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row

from monolith import strict_json
from monolith.content.formatting import rfc3339
from monolith.db.models import MARK, OVER
from monolith.runner.ledger import events
from monolith.runner.ledger.events import Position, SafePosition

RECONNECT_MS = 3000  # what a browser waits before it reconnects
MAX_AGE_S = 300.0  # then the client has to reconnect and authenticate again
MAX_BEHIND = 10_000  # events of all users; a client that was away for longer reads the lists instead
HEARTBEAT = ": here\n\n"
GREETING = f"retry: {RECONNECT_MS}\n\n"
FROM_NOW_ON = -1
UNKNOWN = (None, None)  # the progress of a job that has reported none


@dataclass
class Stream:
    """The stream of one client. `after`: the number of the last event it has; 0 or FROM_NOW_ON at first.

    `shown`: the progress and its note that were sent last, for each running job.
    """

    user_id: int
    sees_all: bool
    job_id: str | None
    after: int
    is_over: bool = False
    opened_at: float = field(default_factory=time.monotonic)
    shown: dict[str, tuple[float | None, str | None]] = field(default_factory=dict)

    @property
    def is_old(self) -> bool:
        return time.monotonic() - self.opened_at > MAX_AGE_S

    def job_messages(self, rows: list[Row[Any]]) -> str:
        """The new events of its job, as text to send. The stream is over when the job is over or deleted."""
        text = self._events(row for row in rows if row.number is not None)
        self.is_over = not rows or rows[-1].status in OVER
        return text + self._progress(rows[-1:])

    def user_messages(self, rows: list[Row[Any]], running: list[Row[Any]], until: int) -> str:
        """The new events of the user's jobs up to the event `until`, as text to send."""
        text = self._events(row for row in rows if self._may_see(row))
        self.after = max(self.after, until)
        return text + self._progress([row for row in running if self._may_see(row)])

    def catch_up(self, position: int) -> str:
        """Start at this position if the stream has none yet, or one that is too old or from another database; `ready` or `missed`."""
        if self.after != FROM_NOW_ON and abs(position - self.after) <= MAX_BEHIND:
            return ""
        name = "ready" if self.after == FROM_NOW_ON else "missed"
        self.after = position
        return _message(name, {}, position)

    def _may_see(self, row: Row[Any]) -> bool:
        return self.sees_all or row.owner_id == self.user_id

    def _events(self, rows: Iterator[Row[Any]]) -> str:
        messages = []
        for row in rows:
            if row.number > self.after:
                self.after, self.shown[row.job_id] = row.number, (row.progress, row.progress_note)
                is_progress = row.name == "progress" or row.name.startswith(MARK)  # steps and marks do not change the status
                messages.append(_message("progress" if is_progress else "status", _event(row), row.number))
        return "".join(messages)

    def _progress(self, rows: list[Row[Any]]) -> str:
        """The progress of running jobs whose progress has changed since it was sent."""
        now = {row.job_id: (row.progress, row.progress_note) for row in rows if row.status == "started"}
        before, self.shown = self.shown, now
        changed = {job_id for job_id, shown in now.items() if shown != before.get(job_id, UNKNOWN)}
        return "".join(_message("progress", _state(row)) for row in rows if row.job_id in changed)


def _state(row: Row[Any]) -> dict[str, Any]:
    """The current state of the job."""
    return {"job_id": row.job_id, "type": row.type, "status": row.status, "progress": row.progress, "progress_note": row.progress_note}


def _event(row: Row[Any]) -> dict[str, Any]:
    note = None if row.name == "started" else row.note  # the note of a start names the worker
    event = {"event": row.name, "at": rfc3339(row.at), "note": note, "attempt": row.attempt, "max_attempts": row.max_attempts}
    return {**_state(row), **event}


def _message(name: str, data: dict[str, Any], number: int | None = None) -> str:
    numbered = "" if number is None else f"id: {number}\n"
    return f"{numbered}event: {name}\ndata: {strict_json.dumps(data, ensure_ascii=False)}\n\n"


class Feed:
    """Reads the ledger for any number of streams: one query for all streams of single jobs, two for all streams of users."""

    def __init__(self) -> None:
        self._position = SafePosition()

    def read(self, streams: Collection[Stream]) -> Iterator[tuple[Stream, str]]:
        """The text to send on each stream now; empty if there is nothing new."""
        of_jobs = [stream for stream in streams if stream.job_id is not None]
        of_users = [stream for stream in streams if stream.job_id is None]
        if of_jobs:
            yield from _read_jobs(of_jobs)
        if not of_users:
            self._position = SafePosition()  # a position from an earlier stream would be out of date
        elif position := self._position.advance():
            yield from _read_users(of_users, position)


def _read_jobs(streams: list[Stream]) -> Iterator[tuple[Stream, str]]:
    after: dict[str, int] = {}
    for stream in streams:
        after[stream.job_id or ""] = min(stream.after, after.get(stream.job_id or "", stream.after))
    rows: dict[str, list[Row[Any]]] = {}
    for row in events.of_jobs(after):
        rows.setdefault(row.job_id, []).append(row)
    for stream in streams:
        yield stream, stream.job_messages(rows.get(stream.job_id or "", []))


def _read_users(streams: list[Stream], safe: Position) -> Iterator[tuple[Stream, str]]:
    starts = {id(stream): stream.catch_up(safe.position) for stream in streams}
    owners = None if any(stream.sees_all for stream in streams) else {stream.user_id for stream in streams}
    after = min(stream.after for stream in streams)
    rows = events.of_owners(owners, after, safe.position) if after < safe.position else []
    until = rows[-1].number if len(rows) == events.STEP else safe.position
    running = events.running_of(owners)
    for stream in streams:
        yield stream, starts[id(stream)] + stream.user_messages(rows, running, until)
