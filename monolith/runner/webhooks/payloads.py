"""What a delivery says: `{type, timestamp, data}`, with the job as it was when that happened."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row, Select, Text, case, cast, func, select

from monolith.content.formatting import rfc3339
from monolith.db.models import Job
from monolith.runner.webhooks.models import ENDINGS, PROGRESS, TRIAL, Delivery, Webhook

MAX_RESULT = 64 * 1024  # characters: what is larger stays out of the body, and can be read through the API
_PLAIN = ("id", "type", "status", "attempt", "max_attempts", "document_id", "parent_id", "progress", "progress_note")
_MOMENTS = ("created_at", "started_at", "ended_at")
_OTHERS = ("error_type", "error_message", "owner_id")


def jobs() -> Select[Any]:
    """What is read of a job to tell of it. A result that is too large is not even fetched."""
    length = func.length(cast(Job.result, Text))
    result = case((length <= MAX_RESULT, Job.result)).label("result")
    return select(*(getattr(Job, name) for name in (*_PLAIN, *_MOMENTS, *_OTHERS)), result, (length > MAX_RESULT).label("is_too_large"))


def of_ending(webhook_id: str, job: Row[Any], event: str, at: float) -> Delivery:
    """The job may have moved on since, when a person started it again: what is told is how it ended."""
    data = {**_data(job), "status": event}
    if event == "finished":
        data |= {"result": job.result, "result_omitted": bool(job.is_too_large)}
    return _delivery(webhook_id, ENDINGS[event], at, data, job.id)


def of_progress(webhook_id: str, job: Row[Any], at: float) -> Delivery:
    return _delivery(webhook_id, PROGRESS, at, _data(job), job.id)


def of_trial(webhook: Webhook, at: float) -> Delivery:
    """What the test button sends."""
    return _delivery(webhook.id, TRIAL, at, {"webhook_id": webhook.id, "message": "This is a test. It does not belong to a job."}, None)


def _data(job: Row[Any]) -> dict[str, Any]:
    own = f"/api/v1/jobs/{job.id}"
    return {
        **{name: getattr(job, name) for name in _PLAIN},
        "error": {"type": job.error_type, "message": job.error_message} if job.error_type else None,
        **{name: rfc3339(getattr(job, name)) for name in _MOMENTS},
        "links": {"self": own, "result": f"{own}/result"},
    }


def _delivery(webhook_id: str, type: str, at: float, data: dict[str, Any], job_id: str | None) -> Delivery:
    said = {"type": type, "timestamp": rfc3339(at), "data": data}
    return Delivery(webhook_id=webhook_id, type=type, job_id=job_id, body=json.dumps(said, ensure_ascii=False, separators=(",", ":")))
