"""What a job's page tells, in the words of people who submit things: why it waits, how long it may take, and what has happened."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from sqlalchemy.orm import Session

from monolith.content.formatting import duration, event_words, humanise, moment, nth, times
from monolith.db.engine import read_now
from monolith.db.models import MARK, Job, JobEvent, User
from monolith.documents import queries
from monolith.runner.monitoring import waiting_reason
from monolith.runner.monitoring.waiting_reason import COUNTED_TO, TypicalDuration, Why, why

SOON_S = 120.0  # a moment that is nearer is told with its seconds
DAY_S = 86400.0
OUR_WORDS = ("The", "This", "It", "A", "An", "No", "Nothing", "Its")  # begin sentences, and no names


class Happening(NamedTuple):
    """One line of the timeline. `kind` chooses its look."""

    kind: str
    at: float
    words: str
    note: str | None


def of_job(session: Session, user: User, job_id: str) -> dict[str, Any]:
    """All that the page of a job shows. `version` changes with what of it moves. Raises `NotFound`."""
    job = queries.job(session, user, job_id)
    moment_now = read_now(session)
    reason = why(session, job)
    usual = None if job.is_over else waiting_reason.typical_duration(session, job.type)
    told = {"lead": lead(job, reason, moment_now), "outlook": outlook(job, usual, moment_now), "steps": steps(job.events)}
    shown = (job.status, job.claims, job.progress, job.progress_note, told["lead"], told["outlook"], len(job.events))
    version = hashlib.sha256(repr(shown).encode()).hexdigest()[:16]
    return {"job": job, "version": version, "now": moment_now, "timeline": [happening(one) for one in job.events], **told}


def lead(job: Job, reason: Why | None, now: float) -> Markup:
    """How it stands, in one or two sentences; empty where there is nothing to add to the status."""
    if reason:
        return waiting(job, reason, now)
    if job.status == "started" and job.attempt > 1:
        return escape(f"This is the {nth(job.attempt)} try of {job.max_attempts}.") + _because(" The one before failed", job.error_message)
    if job.status == "failed" and job.attempt > 1:
        return escape(f"It was tried {times(job.attempt)}.")
    return Markup("")


def waiting(job: Job, reason: Why, now: float) -> Markup:
    """Why it waits."""
    at = when(job.run_at, now)
    if reason.code == "retry":
        return escape(f"Tried {times(job.attempt)}. ") + _because(Markup("Next try at {}").format(at), job.error_message)
    if reason.code == "parked":
        return Markup("It goes on at {}. {}").format(at, job.snooze_reason or "")
    if reason.code == "paused":
        until = Markup(" It goes on at {}.").format(when(reason.until, now)) if reason.until else ""
        return Markup("Such work is paused: {}.{}").format(reason.said.rstrip("."), until)
    if reason.code == "delayed":
        return Markup("It starts at {}.").format(at)
    if reason.code == "no_clock":
        return Markup(
            "It was to go on at {}. It is kept safely, and goes on by itself when the part of Intray that is away is back."
        ).format(at)
    if reason.code == "worker_lost":
        return Markup("Whoever is at work on it has not been heard of for a while. It is kept safely, and begun again if that stays so.")
    return escape(("It was interrupted, and starts again. " if job.interruptions else "") + _in_line(reason))


def _in_line(reason: Why) -> str:
    if reason.code == "redis_away":
        return "It is kept safely, and starts by itself when the part of Intray that is away is back."
    if reason.code == "no_worker":
        return "It is kept safely. Nobody is at work on such jobs just now; it starts by itself as soon as somebody is."
    if reason.place > COUNTED_TO:
        return f"More than {COUNTED_TO:,} are before it."
    turn = f", and its turn should come in {_about(reason.seconds)}" if reason.seconds else ""
    return f"It is next in line{turn}." if reason.place == 1 else f"It is number {reason.place} in line{turn}."


def outlook(job: Job, usual: TypicalDuration | None, now: float) -> str:
    """How long it may take, as far as can be said from jobs that are done; empty where it cannot."""
    if usual is None or job.is_over:
        return ""
    if job.status != "started" or job.started_at is None:
        return f"Once begun, such a job usually takes {_about(usual.half)}."
    left = usual.half - (now - job.started_at)
    if left > 1:
        return f"{humanise(_about(left))} left, if it goes as usual."
    return (
        "It should be done any moment."
        if now - job.started_at < usual.most
        else f"It takes longer than usual: most take {_about(usual.most)}."
    )


def _about(seconds: float) -> str:
    """In steps that a person can believe."""
    if seconds < 2:
        return "a moment"
    step = 1 if seconds < 10 else 5 if seconds < 60 else 30 if seconds < 600 else 300
    rounded = round(seconds / step) * step
    return f"about {rounded} s" if rounded < 60 else f"about {duration(rounded)}"


def steps(events: list[JobEvent]) -> list[JobEvent]:
    """The steps of the newest attempt, in order."""
    begun = max((place for place, event in enumerate(events) if event.name == "started"), default=len(events))
    return [event for event in events[begun:] if event.name == "progress"]


def happening(event: JobEvent) -> Happening:
    """An event in words, with the reason where there is one that its reader can use."""
    if event.name == "progress" and event.note:
        return Happening(event.name, event.at, humanise(event.note), None)
    has_reason = event.name in ("retrying", "parked") or event.name.startswith(MARK)
    return Happening(event.name, event.at, event_words(event), event.note if has_reason else None)


def when(seconds: float | None, now: float) -> Markup:
    """A moment, as exactly as it matters."""
    away = abs((seconds or 0) - now)
    return moment(seconds, "time" if away < SOON_S else "clock" if away < DAY_S else "datetime")


def _because(what: Markup | str, error: str | None) -> Markup:
    """`what`, because of the error: in the middle of the sentence where that begins with a word of ours."""
    if not error:
        return Markup("{}.").format(what)
    first = error.split(" ", 1)[0]
    because = error[0].lower() + error[1:] if first in OUR_WORDS else error
    return Markup("{}, because {}").format(what, because if because.endswith((".", "!", "?")) else f"{because}.")
