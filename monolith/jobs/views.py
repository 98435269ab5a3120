"""Rows as the JSON that `schemas.py` describes: one, a page of them, and the response to a submission."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from flask import Response, g, jsonify, request, url_for
from flask_login import current_user
from flask_smorest import Blueprint
from marshmallow import Schema
from sqlalchemy.orm import Session

from monolith.db.away import DatabaseAway
from monolith.db.engine import read_connection, read_session
from monolith.db.models import Artefact, Document, Job
from monolith.documents import queries
from monolith.documents.actions import BulkResult
from monolith.documents.submission import Submitted
from monolith.jobs import schemas
from monolith.runner.ledger import admission
from monolith.runner.ledger.batches import Batch, BatchProgress, progress_of
from monolith.runner.ledger.guarded_update import JobRecord
from monolith.runner.monitoring.waiting_reason import reasons_of_new, waiting_reason
from monolith.web.openapi import ProblemSchema
from monolith.web.schemas import view_of
from monolith.web.security import signed_in

RETRY_AFTER_S = "1"  # when to ask again for an accepted job or batch
SUBMISSIONS = ("documents.Documents", "jobs.Jobs", "batches.Batches")
REASONS_OF_BATCH = 20
View = TypeVar("View", bound=Callable[..., Any])
KEY_HEADER = {
    "in": "header",
    "name": "Idempotency-Key",
    "schema": {"type": "string", "maxLength": 255},
    "description": "A unique key for this request. Repeating it returns the first response and creates nothing new",
}
PROBLEMS_OF_SUBMISSIONS = {
    410: "Created earlier with the same Idempotency-Key, and since deleted",
    413: "Too large",
    422: "A field or a document is invalid, or another request used the Idempotency-Key",
    429: "You have too many unfinished jobs; see Retry-After",
    503: "The queue is full, or the database is unavailable; see Retry-After",
}


def submission_responses(
    blueprint: Blueprint, schema: type[Schema], found: str = "Already created with the same Idempotency-Key"
) -> Callable[[View], View]:
    """Document the idempotency key of a submission and the responses that each may get; 200 is of `schema`, and means `found`."""

    def document(view: View) -> View:
        documented = blueprint.doc(parameters=[KEY_HEADER])(blueprint.alt_response(200, schema=schema, description=found)(view))
        for status, description in PROBLEMS_OF_SUBMISSIONS.items():
            documented = blueprint.alt_response(status, schema=ProblemSchema, description=description)(documented)
        view._apidoc = documented._apidoc  # type: ignore[attr-defined]  # without the wrappers, which do nothing, one in the other
        return view

    return document


# ---- jobs and documents


def job_view(session: Session, job: Job, *, with_result: bool = True) -> dict[str, Any]:
    """A job that is read from the database, with its files, why it waits, and its result if wanted."""
    return _job_view(job, waiting_reason(session, job), job.artefacts, job.result if with_result and job.status == "finished" else None)


def _job_view(
    job: Job | JobRecord, waiting_reason: str | None, artefacts: Iterable[Artefact] = (), result: dict[str, Any] | None = None
) -> dict[str, Any]:
    if "jobs_url" not in g:  # made once for each response: making a URL takes longer than the rest of a job
        g.jobs_url = url_for("jobs.Jobs")
    own = f"{g.jobs_url}/{job.id}"
    view = view_of(
        schemas.JobSchema,
        job,
        object="job",
        result=result,
        error={"type": job.error_type, "message": job.error_message} if job.error_type else None,
        waiting_reason=waiting_reason,
        cost={"input_tokens": job.input_tokens, "output_tokens": job.output_tokens, "usd": round(job.usd, 9)},
        artifacts=[
            view_of(schemas.ArtefactSchema, one, url=url_for("jobs.JobArtefact", job_id=one.job_id, name=one.name)) for one in artefacts
        ],
        links={"self": own, "result": f"{own}/result", "events": f"{own}/events"},
    )
    if job.preview is None:
        del view["preview"]
    return view


def document_views(session: Session, documents: list[Document]) -> list[dict[str, Any]]:
    """Documents, each with its jobs."""
    firsts = queries.firsts(session, documents)
    jobs = [[job_view(session, job, with_result=False) for job in one.jobs] for one in documents]
    return [_document_view(one, of_it, firsts.get(one.id)) for one, of_it in zip(documents, jobs, strict=True)]


def _document_view(document: Document, jobs: list[dict[str, Any]], duplicate_of: str | None) -> dict[str, Any]:
    own = url_for("documents.OneDocument", document_id=document.id)
    return view_of(
        schemas.DocumentSchema,
        document,
        object="document",
        defaulted=bool(document.is_defaulted),
        duplicate_of=duplicate_of,
        jobs=jobs,
        links={"self": own, "content": f"{own}/content"},
    )


def _by_document(jobs: list[dict[str, Any]]) -> dict[str | None, list[dict[str, Any]]]:
    found: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
    for job in jobs:
        found[job["document_id"]].append(job)
    return found


# ---- submissions


def submitted_job_view(submitted: Submitted) -> dict[str, Any]:
    """The one job of a submission. One that is new is not read from the database again."""
    secret = {"webhook_secret": submitted.webhook_secret} if submitted.webhook_secret else {}
    if submitted.is_all_new:
        return {**_new_job_views(submitted)[0], **secret}
    with read_session() as session:
        return {**job_view(session, queries.job(session, current_user, submitted.job_ids[0])), **secret}


def submitted_view(submitted: Submitted) -> dict[str, Any]:
    """The documents and jobs of a submission: `document` for one, `documents` for several."""
    documents, jobs = _new_views(submitted) if submitted.is_all_new else _stored_views(submitted)
    return {"document": documents[0], "jobs": jobs} if len(documents) == 1 else {"documents": documents, "jobs": jobs}


def _new_views(submitted: Submitted) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Documents and jobs of a submission in which all is new; only duplicates of the content are looked up."""
    views = _new_job_views(submitted)
    with read_connection() as connection:
        firsts = queries.firsts(connection, submitted.documents)
    of_document = _by_document(views)
    return [_document_view(one, of_document[one.id], firsts.get(one.id)) for one in submitted.documents], views


def _new_job_views(submitted: Submitted) -> list[dict[str, Any]]:
    reasons = reasons_of_new(submitted.jobs)
    return [_job_view(job, reason) for job, reason in zip(submitted.jobs, reasons, strict=True)]


def _stored_views(submitted: Submitted) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Documents and jobs of a submission, read from the database. A deduplicated job may belong to another document."""
    with read_session() as session:
        found = document_views(session, [queries.document(session, current_user, one) for one in submitted.document_ids])
        known = {job["id"]: job for one in found for job in one["jobs"]}
        elsewhere = [one for one in submitted.job_ids if one not in known]
        known |= {one: job_view(session, queries.job(session, current_user, one), with_result=False) for one in elsewhere}
    return found, [known[one] for one in submitted.job_ids]


def accepted(submitted: Submitted, body: Any, status: int) -> Response:
    """The response to a submission: `status`, or 200 for a replay; headers say if it was replayed or deduplicated."""
    response = jsonify(body)
    response.status_code = 200 if submitted.is_replayed else status
    if submitted.is_replayed:
        response.headers["Idempotency-Replayed"] = "true"
    if submitted.is_deduplicated:
        response.headers["Intray-Deduplicated"] = "true"
    return response


def add_headroom(response: Response) -> Response:
    """Add to each response to a submission how many more jobs the user may submit; nothing while the database is away."""
    if request.method == "POST" and request.endpoint in SUBMISSIONS and (user := signed_in()).is_authenticated:
        with suppress(DatabaseAway):
            headroom = admission.headroom(user)
            response.headers.update(headroom.headers() if headroom else {})
    return response


def left_views(result: BulkResult) -> list[dict[str, str]]:
    """What a bulk action did not change, each with the reason."""
    return [{"id": one, "detail": why} for one, why in result.skipped.items()]


# ---- batches


def batch_views(session: Session, batches: list[Batch]) -> list[dict[str, Any]]:
    """Batches as a list shows them, without their documents and jobs."""
    progress = progress_of(session, [one.id for one in batches])
    return [_batch_view(one, progress[one.id]) for one in batches]


def _batch_view(batch: Batch, progress: BatchProgress) -> dict[str, Any]:
    own = url_for("batches.OneBatch", batch_id=batch.id)
    return view_of(
        schemas.BatchSummarySchema,
        batch,
        object="batch",
        url=own,
        is_over=progress.is_over,
        progress=round(progress.progress, 1),
        counts=progress.counts,
        links={"self": own, "retry": f"{own}/retry", "page": url_for("batch_pages.show", batch_id=batch.id)},
    )


def whole_batch_view(session: Session, whole: queries.WholeBatch) -> dict[str, Any]:
    """A batch with its jobs, and its documents, each with its jobs of this batch."""
    waiting = [job for job in whole.jobs if job.status in ("queued", "scheduled")]
    reasons: dict[str, str | None] = dict.fromkeys((job.id for job in waiting), "It is waiting behind other jobs of its batch.")
    reasons |= {job.id: waiting_reason(session, job) for job in waiting[:REASONS_OF_BATCH]}  # each takes some queries
    views = [_job_view(job, reasons.get(job.id), job.artefacts) for job in whole.jobs]
    of_document, firsts = _by_document(views), queries.firsts(session, whole.documents)
    documents = [_document_view(one, of_document[one.id], firsts.get(one.id)) for one in whole.documents]
    return {**_batch_view(whole.batch, whole.progress), "documents": documents, "jobs": views}
