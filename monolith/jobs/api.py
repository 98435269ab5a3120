"""Documents, jobs and job types as JSON."""

from __future__ import annotations

import re
from typing import Any

from flask import Response, g, jsonify, request
from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint
from sqlalchemy import select

from monolith.db.engine import read_session
from monolith.db.models import OVER, Document, Job
from monolith.documents import actions, queries, submission, uploads
from monolith.errors import Conflict, NotFound
from monolith.job_types import registry
from monolith.jobs import idempotency_key, request_bodies, result_download
from monolith.jobs import schemas as s
from monolith.jobs.long_poll import wait_until
from monolith.jobs.schemas import DocumentsQuery, JobsQuery
from monolith.jobs.views import accepted, document_views, job_view, submitted_job_view, submitted_view, tell_room
from monolith.runner.ledger.idempotency import Key
from monolith.web.openapi import ProblemSchema
from monolith.web.responses import download, listed

ASK_AGAIN_S = "1"  # Retry-After of an accepted job
KEY_HEADER = {
    "in": "header",
    "name": "Idempotency-Key",
    "schema": {"type": "string", "maxLength": 255},
    "description": "A unique key for this request. Repeating it returns the first response and creates nothing new",
}
documents = Blueprint("documents", __name__, url_prefix="/documents", description="Documents you submit")
jobs = Blueprint("jobs", __name__, url_prefix="/jobs", description="Jobs that run on your documents")
job_types = Blueprint("job-types", __name__, url_prefix="/job-types", description="The types of jobs you can run")
for _blueprint in (documents, jobs):
    _blueprint.after_request(tell_room)


# ---- documents


@documents.route("")
class Documents(MethodView):
    @documents.arguments(DocumentsQuery(), location="query")
    @documents.response(200, s.DocumentListSchema)
    def get(self, query: dict[str, Any]) -> Response:
        """List or search your documents, newest first."""
        with read_session() as session:
            page = queries.documents(session, current_user, **query)
            return listed(page, document_views(session, page.rows))

    @documents.doc(
        requestBody={
            "required": True,
            "content": {"application/json": {"schema": s.DocumentRequest}, "multipart/form-data": {"schema": s.DocumentUpload}},
        },
        parameters=[KEY_HEADER],
    )
    @documents.response(201, s.SubmittedSchema)
    @documents.alt_response(200, schema=s.SubmittedSchema, description="Already created with the same Idempotency-Key")
    @documents.alt_response(410, schema=ProblemSchema, description="Created earlier with the same Idempotency-Key, and since deleted")
    @documents.alt_response(413, schema=ProblemSchema, description="Too large")
    @documents.alt_response(422, schema=ProblemSchema, description="A field is invalid, or another request used the Idempotency-Key")
    @documents.alt_response(429, schema=ProblemSchema, description="You have too many unfinished jobs; see Retry-After")
    @documents.alt_response(503, schema=ProblemSchema, description="The queue is full, or the database is unavailable; see Retry-After")
    def post(self) -> Response:
        """Submit a document as text or URL, or one or more files, with the jobs to run on each."""
        key = idempotency_key.of_call()
        submitted = submission.earlier(current_user, key) or _submit_documents(key)
        return accepted(submitted, submitted_view(submitted), 201)


def _submit_documents(key: Key | None) -> submission.Submitted:
    read = request_bodies.of_form if request.mimetype == "multipart/form-data" else request_bodies.of_json
    return submission.submit_documents(current_user, *read(current_user.id), g.request_id, key)


@documents.route("/<document_id>")
class OneDocument(MethodView):
    @documents.response(200, s.DocumentSchema)
    @documents.alt_response(404, schema=ProblemSchema, description="Not found, or not yours")
    def get(self, document_id: str) -> Response:
        """Show a document and its jobs."""
        return _one_document(document_id)

    @documents.arguments(s.DocumentChange(), required=False)
    @documents.response(200, s.DocumentSchema)
    @documents.alt_response(404, schema=ProblemSchema, description="Not found, or not yours")
    def patch(self, changes: dict[str, Any], document_id: str) -> Response:
        """Change the title of a document, or replace its tags."""
        actions.change_document(current_user, document_id, **changes)
        return _one_document(document_id)

    @documents.response(204)
    @documents.alt_response(409, schema=ProblemSchema, description="A job is running on it")
    def delete(self, document_id: str) -> None:
        """Delete a document with its jobs and their files."""
        actions.delete_document(current_user, document_id)


def _one_document(document_id: str) -> Response:
    with read_session() as session:
        return jsonify(document_views(session, [queries.document(session, current_user, document_id)])[0])


@documents.route("/<document_id>/content")
class DocumentContent(MethodView):
    @documents.response(200, content_type="application/octet-stream")
    @documents.alt_response(409, schema=ProblemSchema, description="Not fetched yet")
    def get(self, document_id: str) -> Response:
        """Download the original."""
        return original(document_id)


def original(document_id: str) -> Response:
    """The original of a document, as it was handed in or fetched."""
    with read_session() as session:
        document = queries.document(session, current_user, document_id)
        content = session.scalar(select(Document.content).where(Document.id == document_id))
    if content is None:
        raise Conflict("The page has not been fetched yet. It is fetched when its first job runs.")
    return download(content, document.media_type, uploads.filename_of(document))


# ---- jobs


@jobs.route("")
class Jobs(MethodView):
    @jobs.arguments(JobsQuery(), location="query")
    @jobs.response(200, s.JobListSchema)
    def get(self, query: dict[str, Any]) -> Response:
        """List or search your jobs, newest first, without their results."""
        with read_session() as session:
            page = queries.jobs(session, current_user, **query)
            return listed(page, [job_view(session, one, with_result=False) for one in page.rows])

    @jobs.doc(parameters=[KEY_HEADER])
    @jobs.arguments(s.JobRequest())
    @jobs.response(202, s.AcceptedJobSchema)
    @jobs.alt_response(200, schema=s.AcceptedJobSchema, description="Already exists: same Idempotency-Key, or an unfinished unique job")
    @jobs.alt_response(404, schema=ProblemSchema, description="The document was not found, or is not yours")
    @jobs.alt_response(410, schema=ProblemSchema, description="Created earlier with the same Idempotency-Key, and since deleted")
    @jobs.alt_response(422, schema=ProblemSchema, description="A field is invalid, or another request used the Idempotency-Key")
    @jobs.alt_response(429, schema=ProblemSchema, description="You have too many unfinished jobs; see Retry-After")
    @jobs.alt_response(503, schema=ProblemSchema, description="The queue is full, or the database is unavailable; see Retry-After")
    def post(self, spec: dict[str, Any]) -> Response:
        """Submit a job. It is accepted immediately and runs when a worker is free."""
        key = idempotency_key.of_call()
        submitted = submission.earlier(current_user, key) or submission.submit_job(current_user, spec, g.request_id, key)
        view = submitted_job_view(submitted)
        response = accepted(submitted, view, 200 if submitted.is_deduplicated else 202)
        response.headers["Location"] = view["links"]["self"]
        response.headers["Retry-After"] = ASK_AGAIN_S
        return response


@jobs.route("/<job_id>")
class OneJob(MethodView):
    @jobs.arguments(s.WaitQuery(), location="query")
    @jobs.response(200, s.JobSchema)
    @jobs.alt_response(304, description="Not changed since the ETag in If-None-Match")
    @jobs.alt_response(404, schema=ProblemSchema, description="Not found, or not yours")
    def get(self, query: dict[str, Any], job_id: str) -> Response:
        """Show a job. `wait` (or `Prefer: wait=20`) delays the response until the job is over, or has changed since `If-None-Match`."""
        seconds = query.get("wait", _preferred_wait())
        if seconds:
            _get_job(job_id)  # what is not there is not waited for
            wait_until(lambda: _is_enough(job_id), seconds)
        response = _get_job(job_id)
        response.make_conditional(request)
        return response


def _preferred_wait() -> int:
    preferred = re.search(r"\bwait=(\d{1,3})\b", request.headers.get("Prefer", ""))
    return int(preferred.group(1)) if preferred else 0


def _is_enough(job_id: str) -> bool:
    if request.if_none_match:
        return not request.if_none_match.contains_weak(_get_job(job_id).get_etag()[0] or "")
    with read_session() as session:
        return session.scalar(select(Job.status).where(Job.id == job_id)) in (*OVER, None)


def _get_job(job_id: str) -> Response:
    with read_session() as session:
        response = jsonify(job_view(session, queries.job(session, current_user, job_id)))
    response.add_etag()
    return response


@jobs.route("/<job_id>/cancel")
class CancelJob(MethodView):
    @jobs.response(200, s.JobSchema)
    @jobs.alt_response(409, schema=ProblemSchema, description="The job is not waiting")
    def post(self, job_id: str) -> Response:
        """Cancel a job before it starts."""
        submission.cancel(current_user, job_id)
        return _get_job(job_id)


@jobs.route("/<job_id>/stop")
class StopJob(MethodView):
    @jobs.response(200, s.JobSchema)
    @jobs.alt_response(409, schema=ProblemSchema, description="The job is not running")
    def post(self, job_id: str) -> Response:
        """Stop a running job."""
        submission.stop(current_user, job_id)
        return _get_job(job_id)


@jobs.route("/<job_id>/requeue")
class RequeueJob(MethodView):
    @jobs.response(200, s.JobSchema)
    @jobs.alt_response(409, schema=ProblemSchema, description="The job has not failed, and was not stopped or cancelled")
    def post(self, job_id: str) -> Response:
        """Retry a job that failed, was stopped or was cancelled."""
        submission.requeue(current_user, job_id)
        return _get_job(job_id)


@jobs.route("/<job_id>/result")
class JobResult(MethodView):
    @jobs.arguments(s.ResultQuery(), location="query")
    @jobs.response(200, description="The result in the format of its job type; as Markdown with `format=md` or `Accept: text/markdown`")
    @jobs.alt_response(409, schema=ProblemSchema, description="Not finished")
    def get(self, query: dict[str, Any], job_id: str) -> Response:
        """Read the result of a finished job."""
        preferred = request.accept_mimetypes.best_match(["application/json", "text/markdown"], "application/json")
        form = query.get("format") or ("md" if preferred == "text/markdown" else "json")
        answer = result_download.download(job_id, form)
        answer.vary.add("Accept")
        return answer


@jobs.route("/<job_id>/artifacts/<name>")
class JobArtefact(MethodView):
    @jobs.response(200, content_type="application/octet-stream")
    def get(self, job_id: str, name: str) -> Response:
        """Download a file that the job created."""
        with read_session() as session:
            file = queries.artefact(session, current_user, job_id, name)
        return download(file.content, file.media_type, file.name)


# ---- job types


@job_types.route("")
class JobTypes(MethodView):
    @job_types.response(200, s.JobTypeListSchema)
    def get(self) -> dict[str, Any]:
        """List the job types you can run, with the JSON Schema of their params."""
        found = [s.job_type_view(one) for one in registry.open_to(current_user).values()]
        return {"object": "list", "data": found, "has_more": False, "url": request.path}


@job_types.route("/<name>")
class OneJobType(MethodView):
    @job_types.response(200, s.JobTypeSchema)
    @job_types.alt_response(404, schema=ProblemSchema, description="No job type has this name")
    def get(self, name: str) -> dict[str, Any]:
        """Show one job type."""
        found = registry.open_to(current_user).get(name)
        if found is None:
            raise NotFound(f"There is no job type {name[:60]!r}. GET /api/v1/job-types lists them.")
        return s.job_type_view(found)
