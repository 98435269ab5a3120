"""Pages of job types that take no document: a form made from their params."""

from __future__ import annotations

from flask import Blueprint, g, redirect, render_template, request, url_for
from flask_login import current_user
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as AnyResponse

from monolith.documents import submission
from monolith.errors import Invalid, NotFound, Unavailable
from monolith.job_types import registry
from monolith.job_types.registry import JobType
from monolith.jobs import request_bodies
from monolith.web import forms

blueprint = Blueprint("job_type_pages", __name__, url_prefix="/run")


@blueprint.get("/<name>")
def form(name: str) -> str:
    """The form of the job type, with its description."""
    return _form(_job_type(name), MultiDict(), {})


@blueprint.post("/<name>")
def run(name: str) -> AnyResponse | tuple[str, int]:
    """Submit the job and go to it, or show the form again with each error at its field."""
    job_type, key = _job_type(name), request_bodies.form_idempotency_key()
    typed = MultiDict([*request.form.items(multi=True), ("job", name)])
    try:
        submitted = submission.submit_job(current_user, forms.read_specs(typed)[-1], g.request_id, key)
    except Invalid as problem:
        return _form(job_type, typed, forms.errors_by_control(problem, typed)), 422
    return redirect(url_for("job_pages.job", job_id=submitted.job_ids[0]), 303)


def _job_type(name: str) -> JobType:
    found = registry.open_to(current_user).get(name)
    if found is None and (reason := registry.broken_open_to(current_user).get(name)):
        raise Unavailable(f"{name} is not available here. {reason}")
    if found is None or found.takes != "nothing":
        raise NotFound(f"No job type {name[:60]!r} runs without a document.")
    return found


def _form(job_type: JobType, typed: MultiDict[str, str], errors: dict[str, list[str]]) -> str:
    shown = {
        "controls": forms.controls(job_type, is_admin=current_user.is_admin),
        "priorities": job_type.priorities_for(current_user),
        "once": request_bodies.form_key(typed),
    }
    return render_template("jobs/run.html", job_type=job_type, typed=typed, errors=errors, **shown)
