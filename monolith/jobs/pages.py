"""The pages people use: submit, my documents, my jobs, one job. Each view loads, calls one verb, and answers."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, current_app, flash, g, redirect, render_template, request, url_for
from flask_login import current_user
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as AnyResponse

from monolith.config import settings
from monolith.content import formatting
from monolith.db.engine import read_now, read_session
from monolith.db.models import STATUSES, Document, new_id
from monolith.documents import actions, queries, submission, uploads
from monolith.errors import Invalid
from monolith.job_types import registry
from monolith.jobs import document_form, flash_messages, idempotency_key, job_page, request_bodies
from monolith.jobs.schemas import MAX_SEARCH
from monolith.runner.ledger import batches, search
from monolith.runner.ledger.admission import headroom
from monolith.runner.ledger.idempotency import Key
from monolith.runner.queue.rq_queues import PRIORITIES
from monolith.web import forms
from monolith.web.responses import go

PAGE_ROWS = 25
SHOWN_BY_DEFAULT = ["analyze"]

blueprint = Blueprint("pages", __name__)
for _filter in formatting.FILTERS:
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
    key = idempotency_key.of_form()
    try:
        submitted = submission.earlier(current_user, key) or _submit(key)
    except Invalid as problem:
        return _submit_form(request.form, document_form.errors_by_control(problem, request.form)), 422
    return go(_place_of(submitted))


def _submit(key: Key | None) -> submission.Submitted:
    documents, refused = document_form.read_documents(current_user.id, request.form, request.files.getlist("file"))
    specs = forms.read_specs(request.form)
    request_bodies.check_size(len(documents), len(specs))
    if specs and (len(documents) > 1 or refused):  # its page goes on saying which were refused
        return submission.submit_batch(current_user, documents, refused, specs, g.request_id, key)
    submitted = submission.submit_documents(current_user, documents, specs, g.request_id, key)
    flash_messages.tell(submitted, refused)
    return submitted


def _submit_form(typed: MultiDict[str, str], errors: dict[str, list[str]]) -> str:
    limits = {"limit": settings().max_upload_bytes, "limit_in_all": settings().max_request_bytes, "room": headroom(current_user)}
    kinds = {"endings": list(uploads.MEDIA_TYPES), "kinds": uploads.KINDS}
    alone = [one for one in registry.open_to(current_user).values() if one.takes == "nothing"]
    return render_template("jobs/submit.html", typed=typed, errors=errors, once=once(typed), alone=alone, **limits, **kinds, **_choices())


def once(typed: MultiDict[str, str]) -> str:
    """What tells this form from all others, so that sending it twice makes one thing."""
    return typed.get(idempotency_key.ONE_TIME) or new_id()


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
    return url_for("pages.documents")


# ---- documents


@blueprint.get("/documents")
def documents() -> str:
    """My documents, the newest first; those that the address asks for."""
    filters = asked("q", "kind", "tag", "status", "type")
    with read_session() as session:
        page = queries.documents(session, current_user, PAGE_ROWS, request.args.get("after"), **filters)
        shown = {
            "firsts": queries.firsts(session, page.rows),
            "tags": search.tags_of(session, current_user.id),
            "now": read_now(session),
        }
        return render_template("jobs/documents.html", page=page, filters=filters, kinds=uploads.KINDS, **shown, **_states())


def asked(*names: str) -> dict[str, str | None]:
    """What the address asks for, by these names."""
    return {name: request.args.get(name, "").strip()[:MAX_SEARCH] or None for name in names}


def _states() -> dict[str, Any]:
    """What a list can be narrowed to."""
    types = [one.name for one in registry.discover().values() if not one.is_internal]
    return {"statuses": STATUSES, "type_names": types, "words": formatting.STATUS_WORDS}


@blueprint.get("/documents/<document_id>")
def document(document_id: str) -> str:
    """One document, its jobs, and what else can be done with it."""
    return _document(document_id, MultiDict(), {})


def _document(document_id: str, typed: MultiDict[str, str], errors: dict[str, list[str]]) -> str:
    with read_session() as session:
        found = queries.document(session, current_user, document_id)
        shown = {"typed": typed, "errors": errors, "once": once(typed), "batch_id": batches.of_document(session, document_id)}
        first = _first(session, found)
        return render_template("jobs/document.html", document=found, now=read_now(session), first=first, **shown, **_choices())


def _first(session: Session, document: Document) -> Document | None:
    """The one with the same content that was handed in first."""
    first_id = queries.firsts(session, [document]).get(document.id)
    return session.get(Document, first_id) if first_id else None


@blueprint.post("/documents/<document_id>/tags")
def change_tags(document_id: str) -> Answer:
    """Add tags to a document, or remove one."""
    try:
        if "remove" in request.form:
            actions.remove_tag(current_user, document_id, request.form["remove"])
        else:
            actions.add_tags(current_user, document_id, document_form.read_tags(request.form))
    except Invalid as problem:
        return _document(document_id, request.form, document_form.errors_by_control(problem, request.form)), 422
    return redirect(url_for("pages.document", document_id=document_id, _anchor="tags"), 303)


@blueprint.post("/documents/<document_id>/jobs")
def submit_job(document_id: str) -> Answer:
    """Start another job on a document."""
    key = idempotency_key.of_form()
    try:
        submitted = submission.earlier(current_user, key) or _submit_job(document_id, key)
    except Invalid as problem:
        return _document(document_id, request.form, document_form.errors_by_control(problem, request.form)), 422
    return redirect(url_for("pages.job", job_id=submitted.job_ids[0]), 303)


def _submit_job(document_id: str, key: Key | None) -> submission.Submitted:
    spec = next(iter(forms.read_specs(request.form)), None)
    if spec is None:
        raise Invalid.field("/type", "Choose a job to run on the document.")
    return submission.submit_job(current_user, {**spec, "document_id": document_id}, g.request_id, key)


@blueprint.get("/documents/<document_id>/delete")
def confirm_delete(document_id: str) -> str:
    """Ask before a document is deleted."""
    with read_session() as session:
        return render_template("jobs/delete.html", document=queries.document(session, current_user, document_id))


@blueprint.post("/documents/<document_id>/delete")
def delete_document(document_id: str) -> AnyResponse:
    """Delete a document with its jobs."""
    actions.delete_document(current_user, document_id)
    flash("The document was deleted.")
    return redirect(url_for("pages.documents"), 303)


# ---- jobs


@blueprint.get("/jobs")
def jobs() -> str:
    """My jobs, the newest first; those that the address asks for."""
    filters = asked("q", "status", "type", "kind", "tag")
    with read_session() as session:
        page = queries.jobs(session, current_user, PAGE_ROWS, request.args.get("after"), **filters)
        return render_template("jobs/jobs.html", page=page, filters=filters, now=read_now(session), **_states())


@blueprint.get("/jobs/<job_id>")
def job(job_id: str) -> str:
    """One job: how far it is, and its result."""
    with read_session() as session:
        return render_template("jobs/job.html", **job_page.of_job(session, current_user, job_id))


@blueprint.get("/jobs/<job_id>/live")
def job_live(job_id: str) -> AnyResponse | str:
    """The moving part of the job's page; 204 when it is still as the page shows it."""
    with read_session() as session:
        told = job_page.of_job(session, current_user, job_id)
        is_seen = request.args.get("seen") == told["version"]
        return Response(status=204) if is_seen else render_template("jobs/_live.html", is_alone=True, **told)


@blueprint.post("/jobs/<job_id>/<any(cancel, stop, requeue):act>")
def steer(job_id: str, act: str) -> Answer:
    """Cancel, stop or requeue a job, as its page offers."""
    actions.ACTS[act](current_user, job_id)
    return redirect(url_for("pages.job", job_id=job_id), 303)


# ---- the page of the API


@blueprint.app_template_global()
def openapi() -> dict[str, Any]:
    """The OpenAPI document, for the page that shows it."""
    api = next(iter(current_app.extensions["flask-smorest"]["apis"].values()))
    document: dict[str, Any] = api["ext_obj"].spec.to_dict()
    return document
