"""`/api/v1/schedules`: jobs that run regularly. For admins."""

from __future__ import annotations

from typing import Any

from flask import url_for
from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint
from marshmallow import Schema, fields

from monolith.db.engine import read_now, read_session
from monolith.runner.scheduler import cron_schedules
from monolith.runner.scheduler.cron_schedules import Schedule
from monolith.web.openapi import ProblemSchema
from monolith.web.public_address import own_path
from monolith.web.schemas import ListSchema, Moment, Priority, Truth
from monolith.web.security import actor, require_admin

blueprint = Blueprint("schedules", __name__, description="Schedules: jobs that run regularly, for admins")
blueprint.before_request(require_admin)
NOT_FOUND = {"schema": ProblemSchema, "description": "No such schedule"}
NAME_IN_USE = {"schema": ProblemSchema, "description": "Another schedule has this name"}


class ScheduleChange(Schema):
    name = fields.String(metadata={"description": "A unique name"})
    type = fields.String(metadata={"description": "A job type that can run without a document"})
    params = fields.Dict(metadata={"description": "Parameters of the job type; see GET /api/v1/job-types"})
    priority = Priority(metadata={"description": "critical, high, normal, low, or 1 to 10"})
    cron = fields.String(metadata={"description": "Cron expression in UTC: minute, hour, day of month, month, day of week: `30 6 * * MON`"})
    enabled = Truth(attribute="is_on", metadata={"description": "Whether the schedule runs"})


class ScheduleRequest(ScheduleChange):
    name = fields.String(required=True, metadata={"description": "A unique name"})
    type = fields.String(required=True, metadata={"description": "A job type that can run without a document"})
    cron = fields.String(required=True, metadata={"description": "Cron expression in UTC: minute, hour, day of month, month, day of week"})


class ScheduleSchema(Schema):
    object = fields.Constant("schedule")
    id = fields.Integer()
    name = fields.String()
    type = fields.String()
    params = fields.Dict()
    priority = fields.String()
    cron = fields.String()
    explained = fields.String(metadata={"description": "The cron expression in words"})
    enabled = fields.Boolean(attribute="is_on")
    owner = fields.String(attribute="owner.email", metadata={"description": "The owner of its jobs"})
    created_at = Moment()
    next_at = Moment(allow_none=True)
    upcoming = fields.List(Moment(), metadata={"description": "The next five run times if the schedule is enabled"})
    last_at = Moment(allow_none=True)
    last_job_id = fields.String(allow_none=True)
    last_error = fields.String(allow_none=True, metadata={"description": "Why the last run could not be submitted"})
    links = fields.Dict(keys=fields.String(), values=fields.String())


class ScheduleListSchema(ListSchema):
    data = fields.List(fields.Nested(ScheduleSchema))


class RunSchema(Schema):
    job_id = fields.String()


def view(schedule: Schedule, moment: float) -> dict[str, Any]:
    """A schedule as pages and the API show it, with its cron expression in words and its next times."""
    names = ("id", "owner", "created_at", "next_at", "last_at", "last_job_id", "last_error", *cron_schedules.FIELDS)
    links = {"self": url_for("schedules.OneSchedule", schedule_id=schedule.id)}
    if schedule.last_job_id:
        links["last_job"] = url_for("jobs.OneJob", job_id=schedule.last_job_id)
    times = {
        "explained": cron_schedules.explained(schedule.cron),
        "upcoming": cron_schedules.upcoming(schedule.cron, moment),
        "links": links,
    }
    return {**{name: getattr(schedule, name) for name in names}, **times}


def _now_viewed(schedule: Schedule) -> dict[str, Any]:
    with read_session() as session:
        return view(schedule, read_now(session))


@blueprint.route("/schedules")
class Schedules(MethodView):
    @blueprint.response(200, ScheduleListSchema)
    def get(self) -> dict[str, Any]:
        """List schedules by name."""
        with read_session() as session:
            data = [view(one, read_now(session)) for one in cron_schedules.list_schedules(session)]
        return {"object": "list", "data": data, "has_more": False, "url": own_path()}

    @blueprint.arguments(ScheduleRequest())
    @blueprint.response(201, ScheduleSchema)
    @blueprint.alt_response(409, **NAME_IN_USE)
    def post(self, given: dict[str, Any]) -> dict[str, Any]:
        """Create a schedule. You own the jobs it submits."""
        return _now_viewed(cron_schedules.create(given, current_user, actor()))


@blueprint.route("/schedules/<int:schedule_id>")
class OneSchedule(MethodView):
    @blueprint.response(200, ScheduleSchema)
    @blueprint.alt_response(404, **NOT_FOUND)
    def get(self, schedule_id: int) -> dict[str, Any]:
        """Show a schedule."""
        with read_session() as session:
            return view(cron_schedules.find(session, schedule_id), read_now(session))

    @blueprint.arguments(ScheduleChange(), required=False)
    @blueprint.response(200, ScheduleSchema)
    @blueprint.alt_response(404, **NOT_FOUND)
    @blueprint.alt_response(409, **NAME_IN_USE)
    def patch(self, given: dict[str, Any], schedule_id: int) -> dict[str, Any]:
        """Change the given fields. If it is enabled or its times change, the next run is counted from now."""
        return _now_viewed(cron_schedules.change(schedule_id, given, actor()))

    @blueprint.response(204)
    @blueprint.alt_response(404, **NOT_FOUND)
    def delete(self, schedule_id: int) -> None:
        """Delete a schedule. Jobs it has created are kept."""
        cron_schedules.remove(schedule_id, actor())


@blueprint.route("/schedules/<int:schedule_id>/run")
class RunSchedule(MethodView):
    @blueprint.response(202, RunSchema)
    @blueprint.alt_response(404, **NOT_FOUND)
    def post(self, schedule_id: int) -> dict[str, str]:
        """Run a schedule now, in addition to its regular times."""
        return {"job_id": cron_schedules.run_now(schedule_id, actor())}
