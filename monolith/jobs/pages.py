"""The pages people use: submit, my documents, my jobs, one job. Each view loads, calls one verb, and answers."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, current_app, flash, g, redirect, render_template, request, url_for
from flask_login import current_user
from sqlalchemy import select
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as AnyResponse

from monolith.config import settings
from monolith.database import now, reading
from monolith.errors import Invalid
from monolith.jobs import finding, forms, idempotency, story, submission, uploads, wording
from monolith.models import STATUSES, new_id
from monolith.runner import batches, registry
from monolith.runner.queues import PRIORITIES
from monolith.runner.replays import Key

PAGE_ROWS = 25
SHOWN_BY_DEFAULT = ["analyze"]

blueprint = Blueprint("pages", __name__)
for _filter in wording.FILTERS:
    blueprint.add_app_template_filter(_filter)

Answer = str | AnyResponse | tuple[str, int]


# ---- submit


@blueprint.get("/")
def submit_form() -> str:
    """The page to submit documents on."""
    return _submit_form(MultiDict([("job", name) for name in SHOWN_BY_DEFAULT]), {})


@blueprint.post("/submit")
def submit() -> Answer:
    """Accept what was filled in and go to it, or show the form again with each error at its field."""
    key = idempotency.of_form()
    try:
        submitted = submission.earlier(current_user, key) or _submit(key)
    except Invalid as problem:
        return _submit_form(request.form, forms.errors_by_control(problem, request.form)), 422
    return _go(_place_of(submitted))


def _submit(key: Key | None) -> submission.Submitted:
    documents = forms.read_documents(current_user.id, request.form, request.files.getlist("file"))
    specs = forms.read_specs(request.form)
    if len(documents) > 1 and specs:  # with a wrong file none is taken: a person can mend that at once
        return submission.submit_batch(current_user, documents, [], specs, g.request_id, key)
    return submission.submit_documents(current_user, documents, specs, g.request_id, key)


def _submit_form(typed: MultiDict[str, str], errors: dict[str, list[str]]) -> str:
    limits = {"limit": settings().max_upload_bytes, "endings": list(uploads.MEDIA_TYPES), "kinds": uploads.KINDS}
    alone = [one for one in registry.open_to(current_user).values() if one.takes == "nothing"]
    return render_template("jobs/submit.html", typed=typed, errors=errors, once=once(typed), alone=alone, **limits, **_choices())


def once(typed: MultiDict[str, str]) -> str:
    """What tells this form from all others, so that sending it twice makes one thing."""
    return typed.get(idempotency.ONE_TIME) or new_id()


def _choices() -> dict[str, Any]:
    """The job types the user can give a document to, with their controls, and the priorities."""
    found = [job_type for job_type in registry.open_to(current_user).values() if job_type.takes == "document"]
    return {"job_types": [(one, forms.controls(one, is_admin=current_user.is_admin)) for one in found], "priorities": PRIORITIES}


def _place_of(submitted: submission.Submitted) -> str:
    """Where a person looks next: the batch, the one job, the one document, else all of them."""
    if submitted.batch_id:
        return url_for("batch_pages.show", batch_id=submitted.batch_id)
    if len(submitted.job_ids) == 1:
        return url_for("pages.job", job_id=submitted.job_ids[0])
    if len(submitted.document_ids) == 1:
        return url_for("pages.document", document_id=submitted.document_ids[0])
    flash(f"{len(submitted.document_ids)} documents were accepted.")
    return url_for("pages.documents")


def _go(url: str) -> AnyResponse:
    """Send the browser on. A request of htmx needs a header, since it would follow a redirect by itself."""
    return Response(status=204, headers={"HX-Redirect": url}) if "HX-Request" in request.headers else redirect(url, 303)


# ---- documents


@blueprint.get("/documents")
def documents() -> str:
    """My documents, the newest first."""
    with reading() as session:
        page = finding.documents(session, current_user, PAGE_ROWS, request.args.get("after"))
        return render_template("jobs/documents.html", page=page, now=_now(session))


@blueprint.get("/documents/<document_id>")
def document(document_id: str) -> str:
    """One document, its jobs, and what else can be done with it."""
    return _document(document_id, MultiDict(), {})


def _document(document_id: str, typed: MultiDict[str, str], errors: dict[str, list[str]]) -> str:
    with reading() as session:
        found = finding.document(session, current_user, document_id)
        shown = {"typed": typed, "errors": errors, "once": once(typed), "batch_id": batches.of_document(session, document_id)}
        return render_template("jobs/document.html", document=found, now=_now(session), **shown, **_choices())


@blueprint.post("/documents/<document_id>/jobs")
def submit_job(document_id: str) -> Answer:
    """Start another job on a document."""
    key = idempotency.of_form()
    try:
        submitted = submission.earlier(current_user, key) or _submit_job(document_id, key)
    except Invalid as problem:
        return _document(document_id, request.form, forms.errors_by_control(problem, request.form)), 422
    return redirect(url_for("pages.job", job_id=submitted.job_ids[0]), 303)


def _submit_job(document_id: str, key: Key | None) -> submission.Submitted:
    spec = next(iter(forms.read_specs(request.form)), None)
    if spec is None:
        raise Invalid.field("/type", "Choose what to do with the document.")
    return submission.submit_job(current_user, {**spec, "document_id": document_id}, g.request_id, key)


@blueprint.get("/documents/<document_id>/delete")
def confirm_delete(document_id: str) -> str:
    """Ask before a document is deleted."""
    with reading() as session:
        return render_template("jobs/delete.html", document=finding.document(session, current_user, document_id))


@blueprint.post("/documents/<document_id>/delete")
def delete_document(document_id: str) -> AnyResponse:
    """Delete a document with its jobs."""
    submission.delete_document(current_user, document_id)
    flash("The document was deleted.")
    return redirect(url_for("pages.documents"), 303)


# ---- jobs


@blueprint.get("/jobs")
def jobs() -> str:
    """My jobs, the newest first, of one status or type where the address says so."""
    filters = {name: request.args.get(name) or None for name in ("status", "type")}
    with reading() as session:
        page = finding.jobs(session, current_user, PAGE_ROWS, request.args.get("after"), **filters)
        choices = {"statuses": STATUSES, "type_names": [one.name for one in registry.discover().values() if not one.is_internal]}
        return render_template("jobs/jobs.html", page=page, filters=filters, now=_now(session), words=wording.STATUS_WORDS, **choices)


@blueprint.get("/jobs/<job_id>")
def job(job_id: str) -> str:
    """One job: how far it is, and its result."""
    with reading() as session:
        return render_template("jobs/job.html", **story.of_job(session, current_user, job_id))


@blueprint.get("/jobs/<job_id>/live")
def job_live(job_id: str) -> AnyResponse | str:
    """The moving part of the job's page; 204 when it is still as the page shows it."""
    with reading() as session:
        told = story.of_job(session, current_user, job_id)
        is_seen = request.args.get("seen") == told["version"]
        return Response(status=204) if is_seen else render_template("jobs/_live.html", is_alone=True, **told)


@blueprint.post("/jobs/<job_id>/<any(cancel, stop, requeue):act>")
def steer(job_id: str, act: str) -> Answer:
    """Cancel, stop or requeue a job, as its page offers."""
    verbs = {"cancel": submission.cancel, "stop": submission.stop, "requeue": submission.requeue}
    verbs[act](current_user, job_id)
    return redirect(url_for("pages.job", job_id=job_id), 303)


def _now(session: Session) -> float:
    return session.scalar(select(now())) or 0.0


# ---- the page of the API


@blueprint.app_template_global()
def openapi() -> dict[str, Any]:
    """The OpenAPI document, for the page that shows it."""
    api = next(iter(current_app.extensions["flask-smorest"]["apis"].values()))
    document: dict[str, Any] = api["ext_obj"].spec.to_dict()
    return document
