"""Bulk actions on documents and jobs, as JSON. Items that cannot be changed are listed with the reason."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify
from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint
from marshmallow import Schema, fields
from marshmallow.validate import Length

from monolith.documents import actions
from monolith.jobs.schemas import LeftSchema
from monolith.jobs.views import left_views

blueprint = Blueprint("selections", __name__, description="Bulk actions")


class SelectionRequest(Schema):
    ids = fields.List(
        fields.String(), required=True, validate=Length(1, actions.MAX_SELECTED), metadata={"description": "Ids of the items"}
    )


class DoneSchema(Schema):
    changed = fields.Integer(metadata={"description": "Number of items changed"})
    left = fields.List(fields.Nested(LeftSchema))


def _view(result: actions.BulkResult) -> Response:
    return jsonify(changed=result.changed, left=left_views(result))


@blueprint.route("/documents/delete")
class DeleteDocuments(MethodView):
    @blueprint.arguments(SelectionRequest())
    @blueprint.response(200, DoneSchema)
    def post(self, selection: dict[str, Any]) -> Response:
        """Delete several documents with their jobs. Documents with a running job are skipped."""
        return _view(actions.delete_documents(current_user, selection["ids"]))


@blueprint.route("/jobs/<any(cancel, stop, requeue):act>")
class SteerJobs(MethodView):
    @blueprint.arguments(SelectionRequest())
    @blueprint.response(200, DoneSchema)
    def post(self, selection: dict[str, Any], act: str) -> Response:
        """Cancel, stop or requeue several jobs. Jobs whose status or your job limits do not allow it are skipped."""
        return _view(actions.change_jobs(current_user, act, selection["ids"]))
