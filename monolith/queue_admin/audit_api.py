"""`GET /api/v1/audit`: the audit log. For admins."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask.views import MethodView
from flask_smorest import Blueprint
from marshmallow import Schema, fields
from marshmallow.validate import Range

from monolith.db.engine import read_session
from monolith.documents.queries import ListPage
from monolith.runner.admin import audit_log
from monolith.web.responses import listed
from monolith.web.schemas import MAX_PAGE, ListSchema, Moment
from monolith.web.security import require_admin

blueprint = Blueprint("audit", __name__, description="The audit log, for admins")
blueprint.before_request(require_admin)


class AuditQuery(Schema):
    limit = fields.Integer(load_default=20, validate=Range(1, MAX_PAGE), metadata={"description": "Maximum number of entries"})
    starting_after = fields.Integer(metadata={"description": "The id of the last entry of the previous page"})
    actor = fields.String(load_default="", metadata={"description": "Part of the actor's name"})
    act = fields.String(load_default="", metadata={"description": "The action, such as `pause`"})
    subject = fields.String(load_default="", metadata={"description": "Part of the target's name"})
    since = fields.String(load_default="", metadata={"description": "Entries at or after this time, RFC 3339"})
    until = fields.String(load_default="", metadata={"description": "Entries before this time, RFC 3339"})


class AuditSchema(Schema):
    object = fields.Constant("audit_entry")
    id = fields.Integer()
    at = Moment()
    actor = fields.String()
    act = fields.String()
    subject = fields.String()
    count = fields.Integer(allow_none=True, metadata={"description": "Number of jobs affected"})
    address = fields.String(allow_none=True)
    request_id = fields.String(allow_none=True)
    before = fields.Dict(allow_none=True)
    after = fields.Dict(allow_none=True)


class AuditListSchema(ListSchema):
    data = fields.List(fields.Nested(AuditSchema))


def filters_of(given: dict[str, Any]) -> audit_log.Filters:
    """The filters given in a query. Raises `Invalid` naming the field."""
    words = {name: str(given.get(name) or "").strip() for name in ("actor", "act", "subject")}
    return audit_log.Filters(
        **words, since=audit_log.moment(given.get("since") or "", "since"), until=audit_log.moment(given.get("until") or "", "until")
    )


@blueprint.route("/audit")
class Audit(MethodView):
    @blueprint.arguments(AuditQuery(), location="query")
    @blueprint.response(200, AuditListSchema)
    def get(self, query: dict[str, Any]) -> Response:
        """List audit entries, newest first."""
        with read_session() as session:
            found, has_more = audit_log.entries(session, filters_of(query), query["limit"], query.get("starting_after"))
        return listed(ListPage(found, has_more), [AuditSchema().dump(one) for one in found])
