"""The page of a job type that takes no document: its form, made from its params."""

from __future__ import annotations

from flask import Blueprint, g, redirect, render_template, request, url_for
from flask_login import current_user
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as AnyResponse

from monolith.documents import submission
from monolith.errors import Invalid, NotFound
from monolith.job_types import registry
from monolith.job_types.registry import JobType
from monolith.jobs import document_form, idempotency_key
from monolith.jobs.pages import once
from monolith.runner.ledger.idempotency import Key
from monolith.runner.queue.rq_queues import PRIORITIES
from monolith.web import forms

blueprint = Blueprint("run_pages", __name__, url_prefix="/run")


@blueprint.get("/<name>")
def form(name: str) -> str:
    """What it does, and its form."""
    return _form(_job_type(name), MultiDict(), {})


@blueprint.post("/<name>")
def run(name: str) -> AnyResponse | tuple[str, int]:
    """Submit the job and go to it, or show the form again with each error at its field."""
    job_type, key = _job_type(name), idempotency_key.of_form()
    typed = MultiDict([*request.form.items(multi=True), ("job", name)])
    try:
        submitted = submission.earlier(current_user, key) or _submit(typed, key)
    except Invalid as problem:
        return _form(job_type, typed, document_form.errors_by_control(problem, typed)), 422
    return redirect(url_for("pages.job", job_id=submitted.job_ids[0]), 303)


def _submit(typed: MultiDict[str, str], key: Key | None) -> submission.Submitted:
    return submission.submit_job(current_user, forms.read_specs(typed)[-1], g.request_id, key)


def _job_type(name: str) -> JobType:
    found = registry.open_to(current_user).get(name)
    if found is None or found.takes != "nothing":
        raise NotFound(f"No job type {name[:60]!r} runs without a document.")
    return found


def _form(job_type: JobType, typed: MultiDict[str, str], errors: dict[str, list[str]]) -> str:
    shown = {"controls": forms.controls(job_type, is_admin=current_user.is_admin), "priorities": PRIORITIES, "once": once(typed)}
    return render_template("jobs/run.html", job_type=job_type, typed=typed, errors=errors, **shown)
