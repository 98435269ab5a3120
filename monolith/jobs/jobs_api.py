"""Jobs as JSON: submit, list, show and wait for them; cancel, stop and retry; read results and files."""

from __future__ import annotations

import re
from typing import Any

from flask import Response, g, jsonify, request
from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint
from sqlalchemy import select

from monolith.db.engine import read_session
from monolith.db.models import OVER, Job
from monolith.documents import actions, queries, result_export, submission
from monolith.jobs import request_bodies, schemas
from monolith.jobs.long_poll import wait_until
from monolith.jobs.views import RETRY_AFTER_S, accepted, add_headroom, job_view, submission_responses, submitted_job_view
from monolith.web.openapi import ProblemSchema
from monolith.web.responses import download, listed
from monolith.web.security import signed_in

blueprint = Blueprint("jobs", __name__, url_prefix="/jobs", description="Jobs that run on your documents")
blueprint.after_request(add_headroom)


@blueprint.route("")
class Jobs(MethodView):
    @blueprint.arguments(schemas.JobsQuery(), location="query")
    @blueprint.response(200, schemas.JobListSchema)
    def get(self, query: dict[str, Any]) -> Response:
        """List or search your jobs, newest first, without their results."""
        with read_session() as session:
            page = queries.jobs(session, current_user, **query)
            return listed(page, [job_view(session, one, with_result=False) for one in page.rows])

    @blueprint.arguments(schemas.JobRequest())
    @blueprint.response(202, schemas.AcceptedJobSchema)
    @submission_responses(blueprint, schemas.AcceptedJobSchema, "Already exists: same Idempotency-Key, or an unfinished unique job")
    @blueprint.alt_response(404, schema=ProblemSchema, description="The document was not found, or is not yours")
    def post(self, spec: dict[str, Any]) -> Response:
        """Submit a job. It is accepted immediately and runs when a worker is free."""
        submitted = submission.submit_job(signed_in(), spec, g.request_id, request_bodies.idempotency_key())
        view = submitted_job_view(submitted)
        response = accepted(submitted, view, 200 if submitted.is_deduplicated else 202)
        response.headers["Location"] = view["links"]["self"]
        response.headers["Retry-After"] = RETRY_AFTER_S
        return response


@blueprint.route("/<job_id>")
class OneJob(MethodView):
    @blueprint.arguments(schemas.WaitQuery(), location="query")
    @blueprint.response(200, schemas.JobSchema)
    @blueprint.alt_response(304, description="Not changed since the ETag in If-None-Match")
    @blueprint.alt_response(404, schema=ProblemSchema, description="Not found, or not yours")
    def get(self, query: dict[str, Any], job_id: str) -> Response:
        """Show a job. `wait` (or `Prefer: wait=20`) delays the response until the job is over, or has changed since `If-None-Match`."""
        preferred = re.search(r"\bwait=(\d{1,3})\b", request.headers.get("Prefer", ""))
        seconds = query.get("wait", int(preferred[1]) if preferred else 0)
        if seconds:
            _get_job(job_id)  # raises NotFound before the wait
            wait_until(lambda: _is_due(job_id), seconds)
        response = _get_job(job_id)
        response.make_conditional(request)
        return response


def _is_due(job_id: str) -> bool:
    """Whether to end the wait: the job has changed since `If-None-Match`; without that header, it is over or deleted."""
    if request.if_none_match:
        return not request.if_none_match.contains_weak(_get_job(job_id).get_etag()[0] or "")
    with read_session() as session:
        return session.scalar(select(Job.status).where(Job.id == job_id)) in (*OVER, None)


def _get_job(job_id: str) -> Response:
    with read_session() as session:
        response = jsonify(job_view(session, queries.job(session, current_user, job_id)))
    response.add_etag()
    return response


@blueprint.route("/<job_id>/cancel")
class CancelJob(MethodView):
    @blueprint.response(200, schemas.JobSchema)
    @blueprint.alt_response(409, schema=ProblemSchema, description="The job is not waiting")
    def post(self, job_id: str) -> Response:
        """Cancel a job before it starts."""
        actions.cancel(current_user, job_id)
        return _get_job(job_id)


@blueprint.route("/<job_id>/stop")
class StopJob(MethodView):
    @blueprint.response(200, schemas.JobSchema)
    @blueprint.alt_response(409, schema=ProblemSchema, description="The job is not running")
    def post(self, job_id: str) -> Response:
        """Stop a running job."""
        actions.stop(current_user, job_id)
        return _get_job(job_id)


@blueprint.route("/<job_id>/requeue")
class RequeueJob(MethodView):
    @blueprint.response(200, schemas.JobSchema)
    @blueprint.alt_response(409, schema=ProblemSchema, description="The job has not failed, and was not stopped or cancelled")
    @blueprint.alt_response(429, schema=ProblemSchema, description="You have too many unfinished jobs; see Retry-After")
    @blueprint.alt_response(503, schema=ProblemSchema, description="The queue is full; see Retry-After")
    def post(self, job_id: str) -> Response:
        """Retry a job that failed, was stopped or was cancelled. It keeps its priority."""
        actions.requeue(current_user, job_id)
        return _get_job(job_id)


@blueprint.route("/<job_id>/result")
class JobResult(MethodView):
    @blueprint.arguments(schemas.ResultQuery(), location="query")
    @blueprint.response(
        200, description="The result in the format of its job type; as Markdown with `format=md` or `Accept: text/markdown`"
    )
    @blueprint.alt_response(409, schema=ProblemSchema, description="Not finished")
    def get(self, query: dict[str, Any], job_id: str) -> Response:
        """Read the result of a finished job."""
        preferred = request.accept_mimetypes.best_match(["application/json", "text/markdown"], "application/json")
        form = query.get("format") or ("md" if preferred == "text/markdown" else "json")
        response = result_file(job_id, form)
        response.vary.add("Accept")
        return response


def result_file(job_id: str, form: str) -> Response:
    """The result of a finished job as a download, as `json` or `md`. Raises `NotFound`, and `Conflict` while there is none."""
    with read_session() as session:
        content = result_export.result_bytes(session, current_user, job_id, form)
    return download(content, result_export.MEDIA_TYPES[form], f"result-{job_id[:8]}.{form}")


@blueprint.route("/<job_id>/artifacts/<name>")
class JobArtefact(MethodView):
    @blueprint.response(200, content_type="application/octet-stream")
    def get(self, job_id: str, name: str) -> Response:
        """Download a file that the job created."""
        with read_session() as session:
            file = queries.artefact(session, current_user, job_id, name)
        return download(file.content, file.media_type, file.name)
