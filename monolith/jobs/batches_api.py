"""Batches as JSON: submit several documents with the same jobs, and follow and retry them as one."""

from __future__ import annotations

from typing import Any

from flask import Response, g, jsonify, request
from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint

from monolith.db.engine import read_session
from monolith.documents import actions, queries, submission
from monolith.jobs import request_bodies, schemas
from monolith.jobs.long_poll import wait_until
from monolith.jobs.views import RETRY_AFTER_S, accepted, add_headroom, batch_views, left_views, submission_responses, whole_batch_view
from monolith.runner.ledger.batches import NewBatch, progress_of
from monolith.web.openapi import ProblemSchema
from monolith.web.responses import listed
from monolith.web.schemas import PageQuery
from monolith.web.security import signed_in

blueprint = Blueprint("batches", __name__, url_prefix="/batches", description="Several documents in one submission")
blueprint.after_request(add_headroom)


@blueprint.route("")
class Batches(MethodView):
    @blueprint.arguments(PageQuery(), location="query")
    @blueprint.response(200, schemas.BatchListSchema)
    def get(self, query: dict[str, Any]) -> Response:
        """List your batches, newest first, without their documents and jobs."""
        with read_session() as session:
            page = queries.batches(session, current_user, **query)
            return listed(page, batch_views(session, page.rows))

    @blueprint.doc(
        requestBody={
            "required": True,
            "content": {"application/json": {"schema": schemas.BatchRequest}, "multipart/form-data": {"schema": schemas.BatchUpload}},
        },
    )
    @blueprint.response(202, schemas.BatchSchema)
    @submission_responses(blueprint, schemas.BatchSchema)
    def post(self) -> Response:
        """Submit several documents with the jobs to run on each. Rejected documents are listed in `refused`; the others are accepted."""
        key = request_bodies.idempotency_key()
        submitted = submission.earlier(current_user, key)  # before the body is read: a replay is not validated again
        if submitted is None:
            documents, rejected, specs = request_bodies.read_batch(current_user.id)
            submitted = submission.submit_documents(signed_in(), documents, specs, g.request_id, key, NewBatch(rejected))
        view = _view(submitted.batch_id or "")
        response = accepted(submitted, view, 202)
        response.headers["Location"] = view["url"]
        response.headers["Retry-After"] = RETRY_AFTER_S
        return response


def _view(batch_id: str) -> dict[str, Any]:
    with read_session() as session:
        return whole_batch_view(session, queries.batch(session, current_user, batch_id))


@blueprint.route("/<batch_id>")
class OneBatch(MethodView):
    @blueprint.arguments(schemas.WaitQuery(), location="query")
    @blueprint.response(200, schemas.BatchSchema)
    @blueprint.alt_response(304, description="Not changed since the ETag in If-None-Match")
    @blueprint.alt_response(404, schema=ProblemSchema, description="Not found, or not yours")
    def get(self, query: dict[str, Any], batch_id: str) -> Response:
        """Show a batch with its documents and jobs. `wait` delays the response until all jobs are over."""
        if query.get("wait"):
            _view(batch_id)  # raises NotFound before the wait
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
    @blueprint.response(200, schemas.RetriedSchema)
    @blueprint.alt_response(404, schema=ProblemSchema, description="Not found, or not yours")
    def post(self, batch_id: str) -> Response:
        """Retry the failed jobs of a batch: as many as your job limits allow. Does nothing if none has failed."""
        result = actions.retry_batch(current_user, batch_id)
        return jsonify(requeued=result.changed, left=left_views(result), **_view(batch_id))
