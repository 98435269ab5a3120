"""Periodic work as JSON: `/api/v1/schedules`. For admins."""

from __future__ import annotations

from typing import Any

from flask import request, url_for
from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint
from marshmallow import Schema, fields

from monolith.db.engine import read_now, read_session
from monolith.runner.scheduler import cron_schedules
from monolith.runner.scheduler.cron_schedules import Schedule
from monolith.web.openapi import ProblemSchema
from monolith.web.schemas import ListSchema, Moment, Priority, Truth
from monolith.web.security import actor, require_admin

blueprint = Blueprint("schedules", __name__, description="Periodic work, for admins")
blueprint.before_request(require_admin)
NOT_THERE = {"schema": ProblemSchema, "description": "There is no such schedule"}
TAKEN = {"schema": ProblemSchema, "description": "The name is taken"}


class ScheduleChange(Schema):
    name = fields.String(metadata={"description": "What people call it; no two have the same"})
    type = fields.String(metadata={"description": "The name of a job type that needs no document"})
    params = fields.Dict(metadata={"description": "Params of the job type; see GET /api/v1/job-types"})
    priority = Priority(metadata={"description": "critical, high, normal, low, or 1..10"})
    cron = fields.String(metadata={"description": "Minute, hour, day of the month, month, day of the week, in UTC: `30 6 * * MON`"})
    enabled = Truth(attribute="is_on", metadata={"description": "Whether it runs by itself"})


class ScheduleRequest(ScheduleChange):
    name = fields.String(required=True, metadata={"description": "What people call it; no two have the same"})
    type = fields.String(required=True, metadata={"description": "The name of a job type that needs no document"})
    cron = fields.String(required=True, metadata={"description": "Minute, hour, day of the month, month, day of the week, in UTC"})


class ScheduleSchema(Schema):
    object = fields.Constant("schedule")
    id = fields.Integer()
    name = fields.String()
    type = fields.String()
    params = fields.Dict()
    priority = fields.String()
    cron = fields.String()
    explained = fields.String(metadata={"description": "The expression in words"})
    enabled = fields.Boolean(attribute="is_on")
    owner = fields.String(attribute="owner.email", metadata={"description": "Whose the jobs are"})
    created_at = Moment()
    next_at = Moment(allow_none=True)
    upcoming = fields.List(Moment(), metadata={"description": "The next five times, were it enabled"})
    last_at = Moment(allow_none=True)
    last_job_id = fields.String(allow_none=True)
    last_error = fields.String(allow_none=True, metadata={"description": "Why the job could not be submitted the last time"})
    links = fields.Dict(keys=fields.String(), values=fields.String())


class ScheduleListSchema(ListSchema):
    data = fields.List(fields.Nested(ScheduleSchema))


class RunSchema(Schema):
    job_id = fields.String()


def view(schedule: Schedule, moment: float) -> dict[str, Any]:
    """A schedule as it is shown, with its words and the times to come."""
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
        """List the schedules, by name."""
        with read_session() as session:
            data = [view(one, read_now(session)) for one in cron_schedules.known(session)]
        return {"object": "list", "data": data, "has_more": False, "url": request.path}

    @blueprint.arguments(ScheduleRequest())
    @blueprint.response(201, ScheduleSchema)
    @blueprint.alt_response(409, **TAKEN)
    def post(self, given: dict[str, Any]) -> dict[str, Any]:
        """Have a job submitted again and again; its jobs are yours."""
        return _now_viewed(cron_schedules.create(given, current_user, actor()))


@blueprint.route("/schedules/<int:schedule_id>")
class OneSchedule(MethodView):
    @blueprint.response(200, ScheduleSchema)
    @blueprint.alt_response(404, **NOT_THERE)
    def get(self, schedule_id: int) -> dict[str, Any]:
        """Show one schedule."""
        with read_session() as session:
            return view(cron_schedules.find(session, schedule_id), read_now(session))

    @blueprint.arguments(ScheduleChange(), required=False)
    @blueprint.response(200, ScheduleSchema)
    @blueprint.alt_response(404, **NOT_THERE)
    @blueprint.alt_response(409, **TAKEN)
    def patch(self, given: dict[str, Any], schedule_id: int) -> dict[str, Any]:
        """Change what is given of it. Switched on again, or with other times, it goes on from now."""
        return _now_viewed(cron_schedules.change(schedule_id, given, actor()))

    @blueprint.response(204)
    @blueprint.alt_response(404, **NOT_THERE)
    def delete(self, schedule_id: int) -> None:
        """Delete it. The jobs that it made stay."""
        cron_schedules.remove(schedule_id, actor())


@blueprint.route("/schedules/<int:schedule_id>/run")
class RunSchedule(MethodView):
    @blueprint.response(202, RunSchema)
    @blueprint.alt_response(404, **NOT_THERE)
    def post(self, schedule_id: int) -> dict[str, str]:
        """Submit its job now, besides its times."""
        return {"job_id": cron_schedules.run_now(schedule_id, actor())}
