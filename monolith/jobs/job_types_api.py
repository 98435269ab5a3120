"""Job types as JSON: those the user can run, with the JSON Schema of their params."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint
from marshmallow import Schema, fields
from marshmallow.validate import OneOf

from monolith.errors import NotFound
from monolith.job_types import registry
from monolith.job_types.registry import JobType
from monolith.web.openapi import ProblemSchema
from monolith.web.public_address import own_path
from monolith.web.schemas import ListSchema, params_schema, view_of

UNKNOWN = "null, as are attempts, backoff and timeout, for a type whose file cannot be loaded"
blueprint = Blueprint("job-types", __name__, url_prefix="/job-types", description="The types of jobs you can run")


class JobTypeSchema(Schema):
    name = fields.String()
    title = fields.String()
    description = fields.String()
    queue = fields.String()
    takes = fields.String(allow_none=True, validate=OneOf(("document", "nothing")), metadata={"description": f"The input; {UNKNOWN}"})
    max_attempts = fields.Integer(allow_none=True)
    backoff = fields.String(allow_none=True, metadata={"description": "exponential or fixed, with seconds"})
    timeout = fields.Integer(allow_none=True, metadata={"description": "Maximum seconds for one attempt"})
    priorities = fields.List(fields.String(), metadata={"description": "The priorities you may submit it with, the most urgent first"})
    schema = fields.Dict(metadata={"description": "JSON Schema of the params"})
    available = fields.Boolean()
    unavailable_reason = fields.String(allow_none=True)


class JobTypeListSchema(ListSchema):
    data = fields.List(fields.Nested(JobTypeSchema))


@blueprint.route("")
class JobTypes(MethodView):
    @blueprint.response(200, JobTypeListSchema)
    def get(self) -> dict[str, Any]:
        """List the job types you can run, with the JSON Schema of their params."""
        found = [_view(one) for one in registry.open_to(current_user).values()]
        broken = [_broken_view(name, reason) for name, reason in registry.broken_open_to(current_user).items()]
        return {"object": "list", "data": sorted(found + broken, key=itemgetter("name")), "has_more": False, "url": own_path()}


@blueprint.route("/<name>")
class OneJobType(MethodView):
    @blueprint.response(200, JobTypeSchema)
    @blueprint.alt_response(404, schema=ProblemSchema, description="No job type has this name")
    def get(self, name: str) -> dict[str, Any]:
        """Show one job type."""
        found = registry.open_to(current_user).get(name)
        if found is None and (reason := registry.broken_open_to(current_user).get(name)):
            return _broken_view(name, reason)
        if found is None:
            raise NotFound(f"There is no job type {name[:60]!r}. GET /api/v1/job-types lists them.")
        return _view(found)


def _view(job_type: JobType) -> dict[str, Any]:
    reason = job_type.unavailable_reason
    computed = {"priorities": job_type.priorities_for(current_user), "schema": params_schema(job_type)}
    return view_of(JobTypeSchema, job_type, **computed, available=reason is None, unavailable_reason=reason)


def _broken_view(name: str, reason: str) -> dict[str, Any]:
    """A job type whose file cannot be loaded, so that little is known of it."""
    declared, _ = registry.broken_types()[name]
    unknown = dict.fromkeys(("takes", "max_attempts", "backoff", "timeout"))
    known = {"name": name, "title": name, "description": reason, "queue": declared.queue, "priorities": [], "schema": {}}
    return {**known, **unknown, "available": False, "unavailable_reason": reason}
