"""The texts of a job's page: why it waits, how long it will take, and its timeline."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from sqlalchemy.orm import Session

from monolith.content.formatting import event_words, humanise, in_words, moment
from monolith.db.engine import read_now
from monolith.db.models import MARK, Job, JobEvent, User
from monolith.documents import queries
from monolith.runner.monitoring import waiting_reason
from monolith.runner.monitoring.waiting_reason import COUNTED_TO, TypicalDuration, WaitingReason, explain

SOON_S = 120.0  # a time that is nearer is shown with its seconds
DAY_S = 86400.0


class TimelineEntry(NamedTuple):
    """One line of the timeline. `kind` chooses its icon."""

    kind: str
    at: float
    words: str
    note: str | None


def of_job(session: Session, user: User, job_id: str) -> dict[str, Any]:
    """The variables of the page of the user's job. `version` changes whenever the live part changes. Raises `NotFound`."""
    job = queries.job(session, user, job_id)
    now = read_now(session)
    reason = explain(session, job)
    usual = None if job.is_over else waiting_reason.typical_duration(session, job.type)
    texts = {"lead": status_text(job, reason, now), "outlook": time_estimate(job, usual, now), "steps": steps(job.events)}
    shown = (job.status, job.claims, job.progress, job.progress_note, texts["lead"], texts["outlook"], len(job.events))
    version = hashlib.sha256(repr(shown).encode()).hexdigest()[:16]
    return {"job": job, "version": version, "now": now, "timeline": [timeline_entry(one) for one in job.events], **texts}


def status_text(job: Job, reason: WaitingReason | None, now: float) -> Markup:
    """The state of the job in one or two sentences; empty if the status says it all."""
    if reason:
        return waiting(job, reason, now)
    if job.status == "started" and job.attempt > 1:
        return escape(f"Attempt {job.attempt} of {job.max_attempts}.") + _failed(f" Attempt {job.attempt - 1} failed", job.error_message)
    if job.status == "failed" and job.attempt > 1:
        return escape(f"It failed after {job.attempt} attempts.")
    return Markup("")


def waiting(job: Job, reason: WaitingReason, now: float) -> Markup:
    """Why the job is waiting."""
    at = when(job.run_at, now)
    if reason.code == "retry":
        return _failed(f"Attempt {job.attempt} of {job.max_attempts} failed", job.error_message) + Markup(" Next attempt {}.").format(at)
    if reason.code == "limit":
        return escape(job.snooze_reason or "")
    if reason.code == "rate":
        about = Markup(" It starts at about {}.").format(when(reason.until, now).removeprefix("at ")) if reason.until else ""
        return Markup("{}{}").format(job.snooze_reason or "", about)
    if reason.code == "snoozed":
        return Markup("{} Resumes {}.").format(job.snooze_reason or "", at)
    if reason.code == "paused":
        until = Markup(" Resumes {}.").format(when(reason.until, now)) if reason.until else ""
        return Markup("Paused: {}.{}").format(reason.pause_reason.rstrip("."), until)
    if reason.code == "delayed":
        return Markup("Starts {}.").format(at)
    if reason.code == "no_clock" and job.held_by:
        return Markup("{} It will start automatically when the scheduler is back.").format(job.snooze_reason or "")
    if reason.code == "no_clock":
        return Markup("Saved. It was due {}; it will start automatically when the scheduler is back.").format(at)
    if reason.code == "worker_lost":
        return Markup("The worker running this job is not responding. If it does not come back, the job restarts automatically.")
    return escape(("Interrupted; it will start again. " if job.interruptions else "") + _in_line(reason))


def _in_line(reason: WaitingReason) -> str:
    if reason.code == "redis_away":
        return "Saved. Your job will start automatically when the queue server is back."
    if reason.code == "no_worker":
        return "Saved. No worker is running right now; your job will start automatically."
    if reason.place > COUNTED_TO:
        return f"More than {COUNTED_TO:,} jobs are ahead of it."
    turn = f"; it should start in {_about(reason.seconds)}" if reason.seconds else ""
    return f"Next in the queue{turn}." if reason.place == 1 else f"Number {reason.place} in the queue{turn}."


def time_estimate(job: Job, usual: TypicalDuration | None, now: float) -> str:
    """How long the job may take, estimated from finished jobs; empty if there are too few."""
    if usual is None or job.is_over:
        return ""
    if job.status != "started" or job.started_at is None:
        return f"Usually takes {_about(usual.median_s)}."
    left = usual.median_s - (now - job.started_at)
    if left > 1:
        return f"{humanise(_about(left))} left."
    return (
        "It should be done any moment now."
        if now - job.started_at < usual.p90_s
        else f"This is taking longer than usual: most jobs take up to {_about(usual.p90_s)}."
    )


def _about(seconds: float) -> str:
    """An estimate, rounded."""
    if seconds < 2:
        return "a few seconds"
    step = 1 if seconds < 10 else 5 if seconds < 60 else 60 if seconds < 3600 else 3600
    return f"about {in_words(max(round(seconds / step), 1) * step)}"


def steps(events: list[JobEvent]) -> list[JobEvent]:
    """The progress events of the newest attempt, in order."""
    begun = max((place for place, event in enumerate(events) if event.name == "started"), default=len(events))
    return [event for event in events[begun:] if event.name == "progress"]


def timeline_entry(event: JobEvent) -> TimelineEntry:
    """An event in words, with its reason if that is of use to the submitter."""
    if event.name == "progress" and event.note:
        return TimelineEntry(event.name, event.at, humanise(event.note), None)
    has_reason = event.name in ("retrying", "parked", "held", "unknown_type") or event.name.startswith(MARK)
    return TimelineEntry(event.name, event.at, event_words(event), event.note if has_reason else None)


def when(seconds: float | None, now: float) -> Markup:
    """A moment as precise as needed, with its preposition: `at 10:30:05`, `at 10:30`, `on 3 May 2026, 10:30`."""
    away = abs((seconds or 0) - now)
    if away >= DAY_S:
        return Markup("on {}").format(moment(seconds, "datetime"))
    return Markup("at {}").format(moment(seconds, "time" if away < SOON_S else "clock"))


def _failed(what: str, error: str | None) -> Markup:
    """`what`, with the error if there is one, as a sentence."""
    sentence = f"{what}: {error}" if error else what
    return escape(sentence if sentence.endswith((".", "!", "?")) else f"{sentence}.")
