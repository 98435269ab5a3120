"""`POST /api/v1/queues/clean` and the trash, from which jobs can be restored for a day. For admins."""

from __future__ import annotations

from typing import Any

from flask.views import MethodView
from flask_smorest import Blueprint
from marshmallow import Schema, fields
from marshmallow.validate import OneOf, Range

from monolith.db.engine import read_session
from monolith.db.models import STATUSES
from monolith.runner.admin import bulk_actions, trash
from monolith.runner.admin.trash import TrashEntry
from monolith.web.openapi import ProblemSchema
from monolith.web.public_address import own_path
from monolith.web.schemas import ListSchema, Moment, Truth
from monolith.web.security import actor, require_admin

WITHIN_S = 15.0  # then the response says how many jobs are left

blueprint = Blueprint("trash", __name__, url_prefix="/queues", description="The trash: deleting and restoring jobs, for admins")
blueprint.before_request(require_admin)


class CleanRequest(Schema):
    status = fields.String(
        required=True, validate=OneOf(STATUSES), metadata={"description": "Any except `started`. Waiting jobs are cancelled first"}
    )
    older_than = fields.Float(
        required=True,
        validate=Range(0, 10 * 365 * 86400),
        metadata={"description": "Minimum age in seconds: since the job ended, or since it was submitted if it is waiting"},
    )
    type = fields.String(load_default=None, allow_none=True, metadata={"description": "Only this job type"})
    dry_run = Truth(load_default=False, metadata={"description": "Only report what would be moved to the trash"})


class SampleSchema(Schema):
    id = fields.String()
    type = fields.String()
    status = fields.String()
    created_at = Moment()
    ended_at = Moment(allow_none=True)
    error = fields.String(attribute="error_message", allow_none=True)


class CleanedSchema(Schema):
    object = fields.Constant("cleaned")
    matched = fields.Integer(metadata={"description": "Number of matching jobs"})
    deleted = fields.Integer(metadata={"description": "Number of jobs moved to the trash. If fewer than `matched`, repeat the request"})
    cleaning_id = fields.Integer(allow_none=True, metadata={"description": "The id to restore these jobs with"})
    oldest = Moment(metadata={"description": "With `dry_run`: when the oldest job ended, or was submitted if it is waiting"})
    newest = Moment()
    samples = fields.List(fields.Nested(SampleSchema), metadata={"description": "With `dry_run`: the five newest jobs"})


class CleaningSchema(Schema):
    object = fields.Constant("cleaning")
    id = fields.Integer(attribute="cleaning.id")
    cleaned_by = fields.String(attribute="cleaning.trashed_by")
    criteria = fields.Dict(attribute="cleaning.criteria")
    at = Moment(attribute="cleaning.at")
    restorable_until = Moment(attribute="until")
    jobs = fields.Integer()


class CleaningListSchema(ListSchema):
    data = fields.List(fields.Nested(CleaningSchema))


class RestoredSchema(Schema):
    object = fields.Constant("restored")
    restored = fields.Integer()
    left = fields.Integer(metadata={"description": "Number still in the trash. If not 0, repeat the request"})


@blueprint.route("/clean")
class Clean(MethodView):
    @blueprint.arguments(CleanRequest())
    @blueprint.response(200, CleanedSchema)
    @blueprint.alt_response(422, schema=ProblemSchema, description="Jobs with this status cannot be moved to the trash")
    def post(self, given: dict[str, Any]) -> dict[str, Any]:
        """Move old jobs of a status to the trash. They can be restored for 24 hours; then they and their files are deleted for good."""
        criteria = trash.older_than(given["older_than"], given["status"], given["type"])
        with read_session() as session:
            found = trash.preview(session, criteria)
        if given["dry_run"]:
            return {"matched": found.matched, "deleted": 0, "oldest": found.oldest, "newest": found.newest, "samples": found.samples}
        done = bulk_actions.run(bulk_actions.ACTIONS["clean"], criteria, actor(), within_s=WITHIN_S)
        cleaning_id = done.cleaning_id if done.changed else None
        return {"matched": max(found.matched, done.changed), "deleted": done.changed, "cleaning_id": cleaning_id}


@blueprint.route("/cleanings")
class Cleanings(MethodView):
    @blueprint.response(200, CleaningListSchema)
    def get(self) -> dict[str, Any]:
        """List what is in the trash and can be restored, newest first."""
        with read_session() as session:
            found: list[TrashEntry] = trash.list_trash(session)
        return {"object": "list", "data": found, "has_more": False, "url": own_path()}


@blueprint.route("/cleanings/<int:cleaning_id>/restore")
class Restore(MethodView):
    @blueprint.response(200, RestoredSchema)
    @blueprint.alt_response(404, schema=ProblemSchema, description="Not in the trash")
    def post(self, cleaning_id: int) -> dict[str, int]:
        """Restore jobs from the trash. Jobs that were waiting come back as cancelled."""
        restored, left = trash.restore(cleaning_id, actor(), within_s=WITHIN_S)
        return {"restored": restored, "left": left}
