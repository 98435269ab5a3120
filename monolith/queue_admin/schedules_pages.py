"""The schedules pages: the list with last and next runs, a form for each, and the clock's background tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_login import current_user
from sqlalchemy import select
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as AnyResponse

from monolith.db.engine import read_now, read_session
from monolith.db.models import Lease
from monolith.errors import Conflict, Invalid, NotFound, Problem
from monolith.job_types import registry
from monolith.job_types.registry import JobType
from monolith.queue_admin.schedules_api import view
from monolith.runner.queue.rq_queues import PRIORITIES
from monolith.runner.scheduler import cron_schedules
from monolith.runner.scheduler.cron_schedules import Schedule
from monolith.web import forms
from monolith.web.security import actor, require_admin

PLAIN = ("name", "cron")  # fields of the form besides the job type's own

blueprint = Blueprint("schedules_pages", __name__, url_prefix="/admin/schedules")
blueprint.before_request(require_admin)


@dataclass(frozen=True)
class TaskStatus:
    """The last reported status of a task of the clock; times are in seconds since 1970."""

    name: str
    every_s: float
    last_at: float | None
    took_s: float
    next_at: float
    has_failed: bool
    is_going_on: bool


@blueprint.get("")
def index() -> str:
    """All schedules, and the clock's background tasks."""
    with read_session() as session:
        moment = read_now(session)
        found = [view(one, moment) for one in cron_schedules.list_schedules(session)]
        tasks = _tasks(session)
    types = [one for one in _schedulable() if not one.unavailable_reason]
    return render_template("queue_admin/schedules.html", schedules=found, tasks=tasks, now=moment, types=types)


@blueprint.get("/new")
def new() -> str:
    """The form for a new schedule of the chosen job type."""
    return _form(_job_type(request.args.get("type", "")), MultiDict(), {})


@blueprint.post("/new")
def create() -> AnyResponse | tuple[str, int]:
    """Create the schedule, or show the form again with each error at its field."""
    job_type = _job_type(request.form.get("type", ""))
    try:
        made = cron_schedules.create(_given(job_type), current_user, actor())
    except (Invalid, Conflict) as problem:
        return _form(job_type, request.form, _errors(problem, job_type)), 422
    flash(f"Schedule “{made.name}” created.")
    return redirect(url_for("schedules_pages.index"), 303)


@blueprint.get("/<int:schedule_id>")
def show(schedule_id: int) -> str:
    """The form of one schedule."""
    schedule = _find(schedule_id)
    return _form(_job_type(schedule.type), _typed(schedule), {}, schedule)


@blueprint.post("/<int:schedule_id>")
def change(schedule_id: int) -> AnyResponse | tuple[str, int]:
    """Change the schedule, or show the form again with each error at its field."""
    schedule = _find(schedule_id)
    job_type = _job_type(schedule.type)
    try:
        cron_schedules.change(schedule_id, _given(job_type), actor())
    except (Invalid, Conflict) as problem:
        return _form(job_type, request.form, _errors(problem, job_type), schedule), 422
    flash("Changes saved.")
    return redirect(url_for("schedules_pages.index"), 303)


@blueprint.post("/<int:schedule_id>/<any(on, off):state>")
def switch(schedule_id: int, state: str) -> AnyResponse:
    """Switch a schedule on or off."""
    cron_schedules.change(schedule_id, {"is_on": state == "on"}, actor())
    return redirect(url_for("schedules_pages.index"), 303)


@blueprint.post("/<int:schedule_id>/run")
def run(schedule_id: int) -> AnyResponse:
    """Submit its job now, and redirect to the job."""
    return redirect(url_for("job_pages.job", job_id=cron_schedules.run_now(schedule_id, actor())), 303)


@blueprint.post("/<int:schedule_id>/delete")
def remove(schedule_id: int) -> AnyResponse:
    """Delete a schedule; jobs it has submitted are kept."""
    flash(f"Schedule “{cron_schedules.remove(schedule_id, actor())}” deleted. Jobs it has created are kept.")
    return redirect(url_for("schedules_pages.index"), 303)


@blueprint.get("/preview")
def preview() -> str:
    """Preview a cron expression: in words with the next times, or the error."""
    return render_template("queue_admin/_preview.html", **_preview(request.args.get("cron", "")))


def _preview(expression: str) -> dict[str, Any]:
    if not expression.strip():
        return {}
    try:
        checked = cron_schedules.normalize(expression)
    except Invalid as problem:
        return {"wrong": problem.detail}
    with read_session() as session:
        return {"explained": cron_schedules.explained(checked), "upcoming": cron_schedules.upcoming(checked, read_now(session))}


def _form(job_type: JobType, typed: MultiDict[str, str], errors: dict[str, list[str]], schedule: Schedule | None = None) -> str:
    shown = {
        "controls": forms.controls(job_type),
        "own": _own(job_type),
        "priorities": PRIORITIES,
        "preview": _preview(typed.get("cron", "")),
    }
    return render_template("queue_admin/schedule.html", job_type=job_type, typed=typed, errors=errors, schedule=schedule, **shown)


def _given(job_type: JobType) -> dict[str, Any]:
    """The fields of the form. Params are read as on the form for a job."""
    [spec] = forms.read_specs(MultiDict([*request.form.items(multi=True), ("job", job_type.name)]))
    for name in _own(job_type):
        if text := request.form.get(f"{job_type.name}.{name}", "").strip():
            spec["params"][name] = text
    return {**spec, **{name: request.form.get(name, "") for name in PLAIN}, "is_on": "is_on" in request.form}


def _own(job_type: JobType) -> list[str]:
    """The params that replace a document, such as a URL, which have no control of their own on the form for a job."""
    return [name for name in job_type.alternatives if name in forms.DOCUMENT_PARAMS]


def _typed(schedule: Schedule) -> MultiDict[str, str]:
    """A schedule as form values."""
    typed = MultiDict({"name": schedule.name, "cron": schedule.cron, "priority": schedule.priority, "csrf_token": "-"})
    for param, value in schedule.params.items():
        if value is not False:
            typed[f"{schedule.type}.{param}"] = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
    if schedule.is_on:
        typed["is_on"] = "on"
    return typed


def _errors(problem: Problem, job_type: JobType) -> dict[str, list[str]]:
    """Errors by the name of their control; those without one under ""."""
    found: dict[str, list[str]] = {}
    for error in problem.errors:
        field, _, param = error.pointer.strip("/").partition("/")
        name = f"{job_type.name}.{param.partition('/')[0]}" if field == "params" and param else field
        found.setdefault(name if field in (*PLAIN, "priority", "params") else "", []).append(error.detail)
    return found or {"": [problem.detail]}


def _find(schedule_id: int) -> Schedule:
    with read_session() as session:
        return cron_schedules.find(session, schedule_id)


def _schedulable() -> list[JobType]:
    """The job types that need no document, or accept a param instead."""
    typed = {one.name: {*_own(one), *(control.param for control in forms.controls(one))} for one in registry.discover().values()}
    return [one for name, one in registry.open_to(current_user).items() if one.takes == "nothing" or typed[name] & {*one.alternatives}]


def _job_type(name: str) -> JobType:
    found = registry.discover().get(name)
    if found is None:
        raise NotFound(f"Unknown job type {name[:60]!r}. Choose one on the Schedules page.")
    return found


def _tasks(session: Session) -> list[TaskStatus]:
    """The tasks of the clock, as reported in the last ten seconds. Reported ages are converted to times."""
    row = session.execute(select(Lease.periodic_tasks, Lease.periodic_tasks_at).where(Lease.name == "clock")).first()
    statuses, at = row if row else (None, None)
    return [_task_status(one, at or 0.0) for one in statuses or []]


def _task_status(status: dict[str, Any], at: float) -> TaskStatus:
    last_at = None if status["ago_s"] is None else at - status["ago_s"]
    next_at = at + status["in_s"]
    return TaskStatus(status["name"], status["every_s"], last_at, status["took_s"], next_at, status["has_failed"], status["is_going_on"])
