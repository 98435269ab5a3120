"""Failed jobs by error group, and retries: of matching jobs at once, or of a group at a limited rate. For admins."""

from __future__ import annotations

from typing import Any

from flask.views import MethodView
from flask_smorest import Blueprint
from marshmallow import Schema, fields
from marshmallow.validate import Length, Range

from monolith.db.engine import read_session
from monolith.runner.admin import bulk_actions, bulk_retry, failure_groups
from monolith.runner.admin.bulk_retry import RetryProgress
from monolith.runner.admin.job_filter import JobFilter
from monolith.web.openapi import ProblemSchema
from monolith.web.public_address import own_path
from monolith.web.schemas import ListSchema, Moment
from monolith.web.security import actor, require_admin

blueprint = Blueprint("failures", __name__, url_prefix="/queues", description="Retrying failed jobs, for admins")
blueprint.before_request(require_admin)


class RequeueRequest(Schema):
    type = fields.String(load_default=None, allow_none=True, metadata={"description": "Only this job type"})
    error = fields.String(
        load_default=None,
        allow_none=True,
        validate=Length(1, 300),
        metadata={"description": "An error group's key, an error type, or words of the error message"},
    )
    limit = fields.Integer(
        load_default=1000, validate=Range(1, bulk_actions.STEP), metadata={"description": "Maximum number of jobs; the newest are retried"}
    )


class RequeuedSchema(Schema):
    object = fields.Constant("requeued")
    requeued = fields.Integer()


class FailureSchema(Schema):
    object = fields.Constant("failure")
    cause = fields.String(attribute="key", metadata={"description": "The error group's key, for retrying and for filters"})
    error_type = fields.String(attribute="fingerprint.type")
    message = fields.String(
        attribute="fingerprint.message", metadata={"description": "The message with IDs, numbers, addresses and quoted text removed"}
    )
    place = fields.String(attribute="fingerprint.place")
    count = fields.Integer()
    types = fields.Dict(metadata={"description": "Number of jobs by job type"})
    first_at = Moment()
    last_at = Moment()
    example = fields.String(attribute="example.id", metadata={"description": "The id of the newest of these jobs"})


class FailureListSchema(ListSchema):
    data = fields.List(fields.Nested(FailureSchema))


class CauseRequest(Schema):
    per_minute = fields.Integer(load_default=60, validate=Range(1, bulk_retry.MAX_RATE))


class RequeueSchema(Schema):
    object = fields.Constant("requeue")
    id = fields.Integer(attribute="requeue.id")
    cause = fields.String(attribute="requeue.error_group")
    title = fields.String(attribute="requeue.title")
    requeued_by = fields.String(attribute="requeue.requeued_by")
    per_minute = fields.Integer(attribute="requeue.per_minute")
    total = fields.Integer(attribute="requeue.total", metadata={"description": "Number of failed jobs in the group when the retry began"})
    requeued = fields.Integer(attribute="requeue.requeued")
    finished = fields.Integer(metadata={"description": "Number of retried jobs that are done"})
    failed = fields.Integer(metadata={"description": "Number of retried jobs that failed again. Above 20 %, the retry stops automatically"})
    began_at = Moment(attribute="requeue.began_at")
    ended_at = Moment(attribute="requeue.ended_at", allow_none=True)
    outcome = fields.String(attribute="requeue.outcome", allow_none=True, metadata={"description": "Why it ended"})


class RequeueListSchema(ListSchema):
    data = fields.List(fields.Nested(RequeueSchema))


@blueprint.route("/requeue")
class RequeueJobs(MethodView):
    @blueprint.arguments(RequeueRequest(), required=False)
    @blueprint.response(200, RequeuedSchema)
    def post(self, given: dict[str, Any]) -> dict[str, int]:
        """Retry failed jobs immediately, with a full set of attempts. For a large error group, a rate-limited retry is safer."""
        criteria = JobFilter(status="failed", type=given["type"], error=given["error"])
        return {"requeued": bulk_actions.run(bulk_actions.ACTIONS["requeue"], criteria, actor(), limit=given["limit"]).changed}


@blueprint.route("/failures")
class Failures(MethodView):
    @blueprint.response(200, FailureListSchema)
    def get(self) -> dict[str, Any]:
        """List failed jobs by error group, largest first."""
        with read_session() as session:
            found = failure_groups.list_groups(session)
        shown = found[: failure_groups.SHOWN]
        return {"object": "list", "data": shown, "has_more": len(found) > len(shown), "url": own_path()}


@blueprint.route("/failures/<cause>/requeue")
class RequeueCause(MethodView):
    @blueprint.arguments(CauseRequest(), required=False)
    @blueprint.response(202, RequeueSchema)
    @blueprint.alt_response(404, schema=ProblemSchema, description="This error group has no failed jobs")
    @blueprint.alt_response(409, schema=ProblemSchema, description="A retry of this error group is already running")
    def post(self, given: dict[str, Any], cause: str) -> RetryProgress:
        """Retry all failed jobs of an error group at a limited rate. Stops automatically if more than 20 % fail again."""
        return RetryProgress(bulk_retry.start(cause, given["per_minute"], actor()), 0, 0, 0, 0)


@blueprint.route("/requeues")
class Requeues(MethodView):
    @blueprint.response(200, RequeueListSchema)
    def get(self) -> dict[str, Any]:
        """List retries that are running or ended within the last 24 hours."""
        with read_session() as session:
            found = bulk_retry.recent(session)
        return {"object": "list", "data": found, "has_more": False, "url": own_path()}


@blueprint.route("/requeues/<int:requeue_id>/stop")
class StopRequeue(MethodView):
    @blueprint.response(204)
    @blueprint.alt_response(404, schema=ProblemSchema, description="This retry is not running")
    def post(self, requeue_id: int) -> None:
        """Stop a retry. Jobs that already restarted continue."""
        bulk_retry.stop(requeue_id, actor())
