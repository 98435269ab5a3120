"""`GET /api/v1/queues/health`: overall health and the current alerts. For admins and their monitoring."""

from __future__ import annotations

import time
from typing import Any

from flask.views import MethodView
from flask_smorest import Blueprint
from marshmallow import Schema, fields

from monolith.content.formatting import rfc3339
from monolith.db.engine import read_session
from monolith.runner.ledger import counts
from monolith.runner.monitoring import alerts
from monolith.web.openapi import ProblemSchema
from monolith.web.security import require_admin

blueprint = Blueprint("alerts", __name__, description="Health of the queues, for admins")
blueprint.before_request(require_admin)


class AlertSchema(Schema):
    code = fields.String(metadata={"description": "The alert's code, such as `no_worker`"})
    severity = fields.String(metadata={"description": "`critical` or `warning`"})
    subject = fields.String(metadata={"description": "What the alert is about: a queue, a pause, a server, or `all`"})
    message = fields.String()


class HealthSchema(Schema):
    healthy = fields.Boolean(metadata={"description": "False while a critical alert is open"})
    alerts = fields.List(fields.Nested(AlertSchema))
    stats = fields.Dict(keys=fields.String(), values=fields.Integer(), metadata={"description": "Number of jobs by status"})
    timestamp = fields.String(metadata={"description": "RFC 3339"})


@blueprint.route("/queues/health")
class Health(MethodView):
    @blueprint.response(200, HealthSchema)
    @blueprint.alt_response(403, schema=ProblemSchema, description="Only admins may do this")
    def get(self) -> dict[str, Any]:
        """Show overall health and the open alerts. Returns 200 even when unhealthy; see `healthy`."""
        with read_session() as session:
            found = alerts.current_alerts(session)
            stats = counts.by_status(counts.counts(session))
        return {"healthy": alerts.is_healthy(found), "alerts": found, "stats": stats, "timestamp": rfc3339(time.time(), "seconds")}
