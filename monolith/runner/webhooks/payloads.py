"""The bodies of deliveries: `{type, timestamp, data}`, where `data` describes the job."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, Select, Text, case, cast, func, select

from monolith import strict_json
from monolith.config import settings
from monolith.content.formatting import rfc3339
from monolith.db.models import Job
from monolith.runner.webhooks.models import ENDINGS, PROGRESS, TEST_EVENT, Delivery, Webhook

MAX_RESULT = 64 * 1024  # characters; a larger result is left out of the body, and can be read through the API
_COPIED = ("id", "type", "status", "attempt", "max_attempts", "document_id", "parent_id", "progress", "progress_note")
_MOMENTS = ("created_at", "started_at", "ended_at")
_OTHERS = ("error_type", "error_message", "owner_id")


def jobs() -> Select[Any]:
    """The query for the fields of jobs that bodies contain. A result that is too large is not fetched."""
    length = func.length(cast(Job.result, Text))
    result = case((length <= MAX_RESULT, Job.result)).label("result")
    return select(*(getattr(Job, name) for name in (*_COPIED, *_MOMENTS, *_OTHERS)), result, (length > MAX_RESULT).label("is_too_large"))


def of_ending(webhook_id: str, job: Row[Any], event: str, at: float) -> Delivery:
    """The delivery about a job's end. `status` is that of the event, because the job may have been requeued since."""
    data = {**_data(job), "status": event}
    if event == "finished":
        data |= {"result": job.result, "result_omitted": bool(job.is_too_large)}
    return _delivery(webhook_id, ENDINGS[event], at, data, job.id)


def of_progress(webhook_id: str, job: Row[Any], at: float) -> Delivery:
    """The delivery about a running job's progress."""
    return _delivery(webhook_id, PROGRESS, at, _data(job), job.id)


def of_test(webhook: Webhook, at: float) -> Delivery:
    """The delivery that the test button sends."""
    return _delivery(
        webhook.id, TEST_EVENT, at, {"webhook_id": webhook.id, "message": "This is a test. It does not belong to a job."}, None
    )


def _data(job: Row[Any]) -> dict[str, Any]:
    own = f"{settings().prefix}/api/v1/jobs/{job.id}"
    return {
        **{name: getattr(job, name) for name in _COPIED},
        "error": {"type": job.error_type, "message": job.error_message} if job.error_type else None,
        **{name: rfc3339(getattr(job, name)) for name in _MOMENTS},
        "links": {"self": own, "result": f"{own}/result"},
    }


def _delivery(webhook_id: str, type: str, at: float, data: dict[str, Any], job_id: str | None) -> Delivery:
    body = {"type": type, "timestamp": rfc3339(at), "data": data}
    text = strict_json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Delivery(webhook_id=webhook_id, type=type, job_id=job_id, body=text)
