"""Pages of documents: submit, my documents, one document with its jobs. Each view loads, calls one function, and renders."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, g, redirect, render_template, request, url_for
from flask_login import current_user
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from monolith.config import settings
from monolith.db.engine import read_now, read_session
from monolith.db.models import Document
from monolith.documents import actions, queries, submission, uploads
from monolith.errors import Invalid
from monolith.job_types import registry
from monolith.jobs import flash_messages, request_bodies
from monolith.runner.ledger import batches, search
from monolith.runner.ledger.admission import headroom
from monolith.runner.ledger.batches import NewBatch
from monolith.web import forms
from monolith.web.responses import go

PAGE_ROWS = 25
SHOWN_BY_DEFAULT = ["analyze"]

blueprint = Blueprint("document_pages", __name__)
Answer = str | Response | tuple[str, int]


# ---- submit


@blueprint.get("/")
def submit_form() -> str:
    """The page to submit documents."""
    return _submit_form(MultiDict([("job", name) for name in SHOWN_BY_DEFAULT]), {})


@blueprint.post("/submit")
def submit() -> Answer:
    """Submit the form and go to the result, or show the form again with each error at its field."""
    key = request_bodies.form_idempotency_key()
    try:
        if replayed := submission.earlier(current_user, key):  # before the form is read: a replay is not validated again
            return go(_next_page(replayed))
        documents, rejected, specs = request_bodies.read_page_form(current_user.id)
        # the page of a batch lists the rejected files; elsewhere a message does
        batch = NewBatch(rejected) if specs and (len(documents) > 1 or rejected) else None
        submitted = submission.submit_documents(current_user, documents, specs, g.request_id, key, batch)
    except Invalid as problem:
        return _submit_form(request.form, forms.errors_by_control(problem, request.form)), 422
    if not (batch or submitted.is_replayed):  # replayed: by a request that was accepted meanwhile
        flash_messages.flash_submitted(submitted, rejected)
    return go(_next_page(submitted))


def _submit_form(typed: MultiDict[str, str], errors: dict[str, list[str]]) -> str:
    limits = {"limit": settings().max_upload_bytes, "limit_in_all": settings().max_request_bytes, "room": headroom(current_user)}
    kinds = {"endings": list(uploads.MEDIA_TYPES), "kinds": uploads.KINDS}
    alone = [one for one in registry.open_to(current_user).values() if one.takes == "nothing"]
    return render_template(
        "jobs/submit.html", typed=typed, errors=errors, once=request_bodies.form_key(typed), alone=alone, **limits, **kinds, **_choices()
    )


def _choices() -> dict[str, Any]:
    """The job types that the user can run on a document, with their controls; those that cannot be loaded; the priorities."""
    found = [job_type for job_type in registry.open_to(current_user).values() if job_type.takes == "document"]
    return {
        "job_types": [(one, forms.controls(one, is_admin=current_user.is_admin)) for one in found],
        "broken": registry.broken_open_to(current_user),
        "priorities": forms.priorities(found, current_user),
    }


def _next_page(submitted: submission.Submitted) -> str:
    """The page to show after a submission: the batch, the only job, the only document, else all documents."""
    if submitted.batch_id:
        return url_for("batch_pages.show", batch_id=submitted.batch_id)
    if len(submitted.job_ids) == 1:
        return url_for("job_pages.job", job_id=submitted.job_ids[0])
    if len(submitted.document_ids) == 1:
        return url_for("document_pages.document", document_id=submitted.document_ids[0])
    return url_for("document_pages.documents")


# ---- documents


@blueprint.get("/documents")
def documents() -> str:
    """My documents, newest first, filtered by the query string."""
    filters = forms.list_filters("q", "kind", "tag", "status", "type")
    with read_session() as session:
        page = queries.documents(session, current_user, PAGE_ROWS, request.args.get("after"), **filters)
        shown = {
            "firsts": queries.firsts(session, page.rows),
            "tags": search.tags_of(session, current_user.id),
            "now": read_now(session),
        }
        return render_template("jobs/documents.html", page=page, filters=filters, kinds=uploads.KINDS, **shown, **forms.filter_choices())


@blueprint.get("/documents/<document_id>")
def document(document_id: str) -> str:
    """One document with its jobs and actions."""
    return _document(document_id, MultiDict(), {})


def _document(document_id: str, typed: MultiDict[str, str], errors: dict[str, list[str]]) -> str:
    with read_session() as session:
        found = queries.document(session, current_user, document_id)
        shown = {
            "typed": typed,
            "errors": errors,
            "once": request_bodies.form_key(typed),
            "batch_id": batches.of_document(session, document_id),
        }
        first_id = queries.firsts(session, [found]).get(found.id)
        first = session.get(Document, first_id) if first_id else None  # the first with the same content
        return render_template("jobs/document.html", document=found, now=read_now(session), first=first, **shown, **_choices())


@blueprint.post("/documents/<document_id>/tags")
def change_tags(document_id: str) -> Answer:
    """Add tags to a document, or remove one."""
    try:
        if "remove" in request.form:
            actions.remove_tag(current_user, document_id, request.form["remove"])
        else:
            actions.add_tags(current_user, document_id, request_bodies.read_tags())
    except Invalid as problem:
        return _document(document_id, request.form, forms.errors_by_control(problem, request.form)), 422
    return redirect(url_for("document_pages.document", document_id=document_id, _anchor="tags"), 303)


@blueprint.post("/documents/<document_id>/jobs")
def submit_job(document_id: str) -> Answer:
    """Start another job on a document."""
    try:
        spec = next(iter(forms.read_specs(request.form)), None)
        if spec is None:
            raise Invalid.field("/type", "Choose a job to run on the document.")
        key = request_bodies.form_idempotency_key()
        submitted = submission.submit_job(current_user, {**spec, "document_id": document_id}, g.request_id, key)
    except Invalid as problem:
        return _document(document_id, request.form, forms.errors_by_control(problem, request.form)), 422
    return redirect(url_for("job_pages.job", job_id=submitted.job_ids[0]), 303)


@blueprint.get("/documents/<document_id>/delete")
def confirm_delete(document_id: str) -> str:
    """Ask before a document is deleted."""
    with read_session() as session:
        return render_template("jobs/delete.html", document=queries.document(session, current_user, document_id))


@blueprint.post("/documents/<document_id>/delete")
def delete_document(document_id: str) -> Response:
    """Delete a document with its jobs."""
    actions.delete_document(current_user, document_id)
    flash("The document was deleted.")
    return redirect(url_for("document_pages.documents"), 303)
