"""Batches as JSON: several documents and what is to be done with each, submitted and watched as one."""

from __future__ import annotations

from typing import Any

from flask import Response, g, jsonify, request
from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint

from monolith.db.engine import read_session
from monolith.documents import queries, submission
from monolith.jobs import batch_schemas as b
from monolith.jobs import idempotency_key, request_bodies
from monolith.jobs import schemas as s
from monolith.jobs.api import ASK_AGAIN_S, KEY_HEADER
from monolith.jobs.long_poll import wait_until
from monolith.jobs.views import accepted, batch_views, tell_room, whole_batch_view
from monolith.runner.ledger.batches import progress_of
from monolith.web import schemas
from monolith.web.openapi import ProblemSchema
from monolith.web.responses import listed

blueprint = Blueprint("batches", __name__, url_prefix="/batches", description="Several documents in one submission")
blueprint.after_request(tell_room)


@blueprint.route("")
class Batches(MethodView):
    @blueprint.arguments(schemas.PageQuery(), location="query")
    @blueprint.response(200, b.BatchListSchema)
    def get(self, query: dict[str, Any]) -> Response:
        """List your batches, newest first, without their documents and jobs."""
        with read_session() as session:
            page = queries.batches(session, current_user, **query)
            return listed(page, batch_views(session, page.rows))

    @blueprint.doc(
        requestBody={
            "required": True,
            "content": {"application/json": {"schema": b.BatchRequest}, "multipart/form-data": {"schema": b.BatchUpload}},
        },
        parameters=[KEY_HEADER],
    )
    @blueprint.response(202, b.BatchSchema)
    @blueprint.alt_response(200, schema=b.BatchSchema, description="Already created with the same Idempotency-Key")
    @blueprint.alt_response(410, schema=ProblemSchema, description="Created earlier with the same Idempotency-Key, and since deleted")
    @blueprint.alt_response(413, schema=ProblemSchema, description="Too large")
    @blueprint.alt_response(422, schema=ProblemSchema, description="A job is invalid, or all documents were rejected")
    @blueprint.alt_response(429, schema=ProblemSchema, description="You have too many unfinished jobs; see Retry-After")
    @blueprint.alt_response(503, schema=ProblemSchema, description="The queue is full, or the database is unavailable; see Retry-After")
    def post(self) -> Response:
        """Submit several documents with the jobs to run on each. Rejected documents are listed in `refused`; the others are accepted."""
        key = idempotency_key.of_call()
        submitted = submission.earlier(current_user, key) or submission.submit_batch(
            current_user, *request_bodies.of_batch(current_user.id), g.request_id, key
        )
        view = _view(submitted.batch_id or "")
        response = accepted(submitted, view, 202)
        response.headers["Location"] = view["url"]
        response.headers["Retry-After"] = ASK_AGAIN_S
        return response


def _view(batch_id: str) -> dict[str, Any]:
    with read_session() as session:
        return whole_batch_view(session, queries.batch(session, current_user, batch_id))


@blueprint.route("/<batch_id>")
class OneBatch(MethodView):
    @blueprint.arguments(s.WaitQuery(), location="query")
    @blueprint.response(200, b.BatchSchema)
    @blueprint.alt_response(304, description="Not changed since the ETag in If-None-Match")
    @blueprint.alt_response(404, schema=ProblemSchema, description="Not found, or not yours")
    def get(self, query: dict[str, Any], batch_id: str) -> Response:
        """Show a batch with its documents and jobs. `wait` delays the response until all jobs are over."""
        if query.get("wait"):
            _view(batch_id)  # what is not there is not waited for
            wait_until(lambda: _is_over(batch_id), query["wait"])
        response = jsonify(_view(batch_id))
        response.add_etag()
        response.make_conditional(request)
        return response


def _is_over(batch_id: str) -> bool:
    with read_session() as session:
        return progress_of(session, [batch_id])[batch_id].is_over


@blueprint.route("/<batch_id>/retry")
class RetryBatch(MethodView):
    @blueprint.response(200, b.RetriedSchema)
    @blueprint.alt_response(404, schema=ProblemSchema, description="Not found, or not yours")
    def post(self, batch_id: str) -> Response:
        """Retry all failed jobs of a batch. Does nothing if none has failed."""
        requeued = submission.retry_batch(current_user, batch_id)
        return jsonify(requeued=requeued, **_view(batch_id))
