"""Rows as the API answers them: one, a page of them, and what came of a submission."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import Any

from flask import Response, jsonify, request
from flask_login import current_user
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from monolith.db.engine import read_connection, read_session
from monolith.db.models import Document, Job
from monolith.documents import queries
from monolith.documents.submission import Submitted
from monolith.jobs import schemas as s
from monolith.jobs.batch_schemas import batch_view
from monolith.runner.ledger import admission
from monolith.runner.ledger.batches import Batch, progress_of
from monolith.runner.monitoring.waiting_reason import reasons_of_new, waiting_reason

SUBMISSIONS = ("documents.Documents", "jobs.Jobs", "batches.Batches")
REASONS_OF_BATCH = 20


def job_view(session: Session, job: Job, *, with_result: bool = True) -> dict[str, Any]:
    result = job.result if with_result and job.status == "finished" else None
    return s.job_view(job, waiting_reason(session, job), job.artefacts, result)


def document_views(session: Session, documents: list[Document]) -> list[dict[str, Any]]:
    """Documents, each with its jobs."""
    firsts = queries.firsts(session, documents)
    jobs = [[job_view(session, job, with_result=False) for job in one.jobs] for one in documents]
    return [s.document_view(one, of_it, firsts.get(one.id)) for one, of_it in zip(documents, jobs, strict=True)]


def submitted_job_view(submitted: Submitted) -> dict[str, Any]:
    """The one job of a submission; one that it made is not read again."""
    once = {"webhook_secret": submitted.webhook_secret} if submitted.webhook_secret else {}
    if submitted.is_all_new:
        return {**_new_views(submitted)[0], **once}
    with read_session() as session:
        return {**job_view(session, queries.job(session, current_user, submitted.job_ids[0])), **once}


def submitted_view(submitted: Submitted) -> dict[str, Any]:
    """Documents and jobs of a submission."""
    documents, jobs = _all_new(submitted) if submitted.is_all_new else _as_they_are(submitted)
    return {"document": documents[0], "jobs": jobs} if len(documents) == 1 else {"documents": documents, "jobs": jobs}


def _all_new(submitted: Submitted) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    views = _new_views(submitted)
    with read_connection() as connection:
        firsts = queries.firsts(connection, submitted.documents)
    of_document = _by_document(views)
    return [s.document_view(one, of_document[one.id], firsts.get(one.id)) for one in submitted.documents], views


def _by_document(views: list[dict[str, Any]]) -> dict[str | None, list[dict[str, Any]]]:
    found: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
    for job in views:
        found[job["document_id"]].append(job)
    return found


def _new_views(submitted: Submitted) -> list[dict[str, Any]]:
    reasons = reasons_of_new(submitted.jobs)
    return [s.job_view(job, reason) for job, reason in zip(submitted.jobs, reasons, strict=True)]


def _as_they_are(submitted: Submitted) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A job that it shares may belong to another document."""
    with read_session() as session:
        found = document_views(session, [queries.document(session, current_user, one) for one in submitted.document_ids])
        known = {job["id"]: job for one in found for job in one["jobs"]}
        elsewhere = [one for one in submitted.job_ids if one not in known]
        known |= {one: job_view(session, queries.job(session, current_user, one), with_result=False) for one in elsewhere}
    return found, [known[one] for one in submitted.job_ids]


def batch_views(session: Session, batches: list[Batch]) -> list[dict[str, Any]]:
    """Batches as a list shows them."""
    known = progress_of(session, [one.id for one in batches])
    return [batch_view(one, known[one.id]) for one in batches]


def whole_batch_view(session: Session, whole: queries.Whole) -> dict[str, Any]:
    """A batch with its documents, each with its jobs of this batch, and the jobs."""
    reasons = _reasons(session, whole.jobs)
    views = [s.job_view(job, reasons.get(job.id), job.artefacts) for job in whole.jobs]
    of_document, firsts = _by_document(views), queries.firsts(session, whole.documents)
    documents = [s.document_view(one, of_document[one.id], firsts.get(one.id)) for one in whole.documents]
    return {**batch_view(whole.batch, whole.standing), "documents": documents, "jobs": views}


def _reasons(session: Session, jobs: list[Job]) -> dict[str, str | None]:
    """Why they wait. Of many only the first few are looked up: the others wait behind them."""
    waiting = [job for job in jobs if job.status in ("queued", "scheduled")]
    known = {job.id: waiting_reason(session, job) for job in waiting[:REASONS_OF_BATCH]}
    return dict.fromkeys((job.id for job in waiting), "It is waiting behind other jobs of its batch.") | known


def accepted(submitted: Submitted, body: Any, status: int) -> Response:
    """The answer to a submission, which says when nothing new was made."""
    response = jsonify(body)
    response.status_code = 200 if submitted.is_replayed else status
    if submitted.is_replayed:
        response.headers["Idempotency-Replayed"] = "true"
    if submitted.is_deduplicated:
        response.headers["Intray-Deduplicated"] = "true"
    return response


def tell_room(response: Response) -> Response:
    """How many jobs the user may still submit, on each answer to a submission. A database that is away tells nothing."""
    if request.method == "POST" and request.endpoint in SUBMISSIONS and current_user.is_authenticated:
        with suppress(OperationalError):
            headroom = admission.headroom(current_user)
            response.headers.update(headroom.headers() if headroom else {})
    return response
