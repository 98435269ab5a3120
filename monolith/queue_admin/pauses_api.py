"""`/api/v1/pauses`: pause and resume everything, a queue or a job type. For admins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask.views import MethodView
from flask_smorest import Blueprint
from marshmallow import Schema, fields
from marshmallow.validate import Length

from monolith.runner.ledger import pauses
from monolith.runner.ledger.pauses import Paused
from monolith.web.openapi import ProblemSchema
from monolith.web.public_address import own_path
from monolith.web.schemas import ListSchema, Moment
from monolith.web.security import actor, require_admin

blueprint = Blueprint("pauses", __name__, description="Pausing queues and job types, for admins")
blueprint.before_request(require_admin)


class PauseRequest(Schema):
    reason = fields.String(required=True, validate=Length(1, 300), metadata={"description": "Why. Shown to users whose jobs are waiting"})
    until = fields.AwareDateTime(
        load_default=None,
        allow_none=True,
        default_timezone=UTC,
        metadata={"description": "When the pause ends, RFC 3339. Without it, the pause lasts until resumed"},
    )


class PauseSchema(Schema):
    object = fields.Constant("pause")
    scope = fields.String(metadata={"description": "`all`, `queue:<name>` or `type:<name>`"})
    reason = fields.String()
    paused_by = fields.String()
    since = Moment()
    until = Moment(allow_none=True)


class PauseListSchema(ListSchema):
    data = fields.List(fields.Nested(PauseSchema))


@blueprint.route("/pauses")
class Pauses(MethodView):
    @blueprint.response(200, PauseListSchema)
    def get(self) -> dict[str, Any]:
        """List active pauses, oldest first."""
        return {"object": "list", "data": pauses.known(), "has_more": False, "url": own_path()}


@blueprint.route("/pauses/<scope>")
class OnePause(MethodView):
    @blueprint.arguments(PauseRequest())
    @blueprint.response(200, PauseSchema)
    @blueprint.alt_response(404, schema=ProblemSchema, description="No such queue or job type")
    def put(self, given: dict[str, Any], scope: str) -> Paused:
        """Pause `all`, `queue:<name>` or `type:<name>`, or change an existing pause. Running jobs finish; no new jobs start."""
        until: datetime | None = given["until"]
        return pauses.pause(scope, given["reason"], actor(), until=until.timestamp() if until else None)

    @blueprint.response(204)
    @blueprint.alt_response(404, schema=ProblemSchema, description="Not paused")
    def delete(self, scope: str) -> None:
        """Resume. Waiting jobs start within a second."""
        pauses.resume(scope, actor())
