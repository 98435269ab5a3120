"""Pages of jobs: my jobs, one job with its live part, and its result as a file."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_login import current_user
from werkzeug.wrappers import Response

from monolith.db.engine import read_now, read_session
from monolith.documents import actions, queries
from monolith.errors import Busy, TooManyJobs
from monolith.jobs import job_status_text
from monolith.jobs.jobs_api import result_file
from monolith.web import forms

PAGE_ROWS = 25
blueprint = Blueprint("job_pages", __name__)


@blueprint.get("/jobs")
def jobs() -> str:
    """My jobs, newest first, filtered by the query string."""
    filters = forms.list_filters("q", "status", "type", "kind", "tag")
    with read_session() as session:
        page = queries.jobs(session, current_user, PAGE_ROWS, request.args.get("after"), **filters)
        return render_template("jobs/jobs.html", page=page, filters=filters, now=read_now(session), **forms.filter_choices())


@blueprint.get("/jobs/<job_id>")
def job(job_id: str) -> str:
    """One job: its progress and its result."""
    with read_session() as session:
        return render_template("jobs/job.html", **job_status_text.of_job(session, current_user, job_id))


@blueprint.get("/jobs/<job_id>/live")
def job_live(job_id: str) -> Response | str:
    """The live part of the job's page; 204 if it has not changed since the page showed it."""
    with read_session() as session:
        shown = job_status_text.of_job(session, current_user, job_id)
        is_seen = request.args.get("seen") == shown["version"]
        return Response(status=204) if is_seen else render_template("jobs/_live.html", is_alone=True, **shown)


@blueprint.post("/jobs/<job_id>/<any(cancel, stop, requeue):act>")
def change_status(job_id: str, act: str) -> Response:
    """Cancel, stop or requeue a job, as its page offers."""
    try:
        actions.JOB_ACTIONS[act](current_user, job_id)
    except (TooManyJobs, Busy) as refusal:  # the page of the job offers it again
        flash(refusal.detail, "warn")
    return redirect(url_for("job_pages.job", job_id=job_id), 303)


@blueprint.get("/jobs/<job_id>/result.<any(json, md):form>")
def result(job_id: str, form: str) -> Response:
    """The result of a finished job as a file."""
    return result_file(job_id, form)
