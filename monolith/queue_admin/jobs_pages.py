"""The jobs page for admins: search all jobs, and run bulk actions on selected or all matching jobs, step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Blueprint, flash, render_template, request, url_for
from sqlalchemy import select
from sqlalchemy.orm import Session, defer, joinedload
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as AnyResponse

from monolith.content import formatting
from monolith.db.engine import read_now, read_session
from monolith.db.models import STATUSES, Job
from monolith.errors import Invalid
from monolith.job_types import registry
from monolith.queue_admin import job_filter_form
from monolith.runner.admin import bulk_actions, job_filter, trash
from monolith.runner.admin.bulk_actions import BulkAction, StepResult
from monolith.runner.admin.job_filter import JobFilter
from monolith.web.responses import go
from monolith.web.security import actor, require_admin

PAGE_ROWS = 50

blueprint = Blueprint("jobs_pages", __name__, url_prefix="/admin/jobs")
blueprint.before_request(require_admin)

Chosen = JobFilter | list[str]


@blueprint.get("")
def index() -> str:
    """A page of matching jobs, newest first."""
    moment = read_now()
    criteria = job_filter_form.criteria(request.args, moment)
    with read_session() as session:
        found = job_filter.newest(session, criteria, PAGE_ROWS + 1, job_filter_form.place(request.args.get("after")))
        rows = _rows(session, [one.id for one in found[:PAGE_ROWS]])
        after = job_filter_form.written((found[PAGE_ROWS - 1].at, found[PAGE_ROWS - 1].id)) if len(found) > PAGE_ROWS else ""
        return render_template("queue_admin/jobs.html", rows=rows, after=after, now=moment, **_asked(), **choices())


def _rows(session: Session, job_ids: list[str]) -> list[Job]:
    query = select(Job).where(Job.id.in_(job_ids)).options(defer(Job.result), joinedload(Job.document), joinedload(Job.owner))
    found = {job.id: job for job in session.scalars(query)}
    return [found[one] for one in job_ids if one in found]


def _asked() -> dict[str, Any]:
    """The filter of the query string, for the form and for links."""
    asked = {name: value for name, value in request.args.items() if value and name not in ("after", "csrf_token")}
    return {"asked": asked, "acts": bulk_actions.ACTIONS.values(), "words": formatting.STATUS_WORDS}


def choices() -> dict[str, Any]:
    """The options of the filter form."""
    types = registry.discover()
    return {"statuses": STATUSES, "type_names": sorted(types), "queue_names": sorted({one.queue for one in types.values()})}


# ---- bulk actions


@blueprint.get("/act")
def confirm() -> str:
    """Ask for confirmation, with the number of jobs."""
    act, chosen = bulk_actions.find(request.args.get("act", "")), _chosen(request.args)
    return _page(act, chosen, bulk_actions.count(act, chosen), done=0)


@blueprint.post("/act")
def take_step() -> str | AnyResponse:
    """Run the next step; then show the progress, or redirect back after the last step."""
    act, chosen = bulk_actions.find(request.form.get("act", "")), _chosen(request.form)
    number = request.form.get("cleaning", type=int)
    step = bulk_actions.run(act, chosen, actor(), after=job_filter_form.place(request.form.get("after")), cleaning_id=number)
    done = request.form.get("done", 0, type=int) + step.changed
    if step.after:
        return _page(act, chosen, request.form.get("total", 0, type=int), done, step)
    flash(f"{done:,} {'job' if done == 1 else 'jobs'} {act.done}.")
    return go(_back(chosen))


def _chosen(given: MultiDict[str, str]) -> Chosen:
    """The selected jobs, or a filter for all matching jobs that were submitted until now."""
    if given.get("all"):
        moment = read_now()
        criteria = job_filter_form.criteria(given, moment)
        return criteria if criteria.until is not None else replace(criteria, until=moment)
    job_ids = given.getlist("job")[: bulk_actions.STEP]
    if not job_ids:
        raise Invalid.field("/job", "No jobs selected. Go back and select some, or choose all matching jobs.")
    return job_ids


def _page(act: BulkAction, chosen: Chosen, total: int, done: int, step: StepResult | None = None) -> str:
    if act.name == "clean" and isinstance(chosen, JobFilter):
        trash.check_status(chosen.status)
    progress = {"chosen": chosen, "all": isinstance(chosen, JobFilter), "back": _back(chosen), "total": max(total, done), "done": done}
    after = job_filter_form.written(step.after) if step else ""
    goes_to = request.values.get("goes_to", "")
    return render_template(
        "queue_admin/act.html", act=act, step=step, after=after, goes_to=goes_to, words=formatting.STATUS_WORDS, **progress
    )


def _back(chosen: Chosen) -> str:
    if request.values.get("goes_to") == "bin":
        return url_for("trash_pages.index")
    fields = chosen.as_dict() if isinstance(chosen, JobFilter) else {}
    return url_for("jobs_pages.index", **{name: fields[name] for name in job_filter_form.WORDS if name in fields})
