"""Bulk actions on the selected rows of a list: a confirmation page, then the action; or a zip download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, send_file, url_for
from flask_login import current_user
from werkzeug.wrappers import Response as AnyResponse

from monolith.db.engine import read_session
from monolith.documents import actions, queries, zip_export
from monolith.errors import Invalid
from monolith.jobs import flash_messages
from monolith.web import forms
from monolith.web.responses import saved

NAMED = 8  # selected items that the confirmation names
FILTERS = ("q", "kind", "tag", "status", "type")
blueprint = Blueprint("bulk_pages", __name__)


@dataclass(frozen=True)
class SelectionAction:
    """The texts of an action: the question and its consequences, the button, and the message afterwards for one and for many."""

    question: str
    warning: str
    verb: str
    icon: str
    one: str
    many: str


DOCUMENTS = {
    "delete": SelectionAction(
        "Delete {}?",
        "Their jobs and results will be deleted too. This cannot be undone.",
        "Delete",
        "bin",
        "document was deleted",
        "documents were deleted",
    )
}
JOBS = {
    "requeue": SelectionAction(
        "Retry {}?",
        "Failed, stopped and cancelled jobs start again. Other jobs are not affected.",
        "Retry",
        "again",
        "job was retried",
        "jobs were retried",
    ),
    "cancel": SelectionAction(
        "Cancel {}?",
        "Waiting jobs will not run. Other jobs are not affected.",
        "Cancel jobs",
        "cancel",
        "job was cancelled",
        "jobs were cancelled",
    ),
    "stop": SelectionAction(
        "Stop {}?",
        "Running jobs end now, and their work so far is lost. Other jobs are not affected.",
        "Stop jobs",
        "stop",
        "job was stopped",
        "jobs were stopped",
    ),
}


@blueprint.post("/documents/selected")
def documents() -> AnyResponse | str:
    """Confirm deleting the selected documents, delete them, or download them."""
    return _act("documents", DOCUMENTS)


@blueprint.post("/jobs/selected")
def jobs() -> AnyResponse | str:
    """Confirm an action on the selected jobs, execute it, or download their results."""
    return _act("jobs", JOBS)


def _act(kind: str, choices: dict[str, SelectionAction]) -> AnyResponse | str:
    filters: dict[str, Any] = {key: value for key, value in forms.list_filters(*FILTERS).items() if value}
    name, back = request.form.get("act", ""), url_for(f"{kind[:-1]}_pages.{kind}", **filters)
    try:
        ids = _selected(kind)
        actions.check_selection(ids)
        if name == "download":
            zipped = zip_export.originals(current_user, ids) if kind == "documents" else zip_export.results(current_user, ids)
            return saved(send_file(zipped, "application/zip"), "documents.zip" if kind == "documents" else "results.zip")
        if name not in choices:
            raise Invalid.field("/act", "Unknown action. Use one of the buttons.")
        if "sure" not in request.form:
            return _confirm(choices[name], name, kind, ids, back)
    except Invalid as problem:
        flash(problem.detail, "warn")
        return redirect(back, 303)
    result = actions.delete_documents(current_user, ids) if kind == "documents" else actions.change_jobs(current_user, name, ids)
    flash_messages.flash_bulk_result(result, choices[name].one, choices[name].many)
    return redirect(back, 303)


def _selected(kind: str) -> list[str]:
    """The ids of the selected rows, or of all rows that match the filters, MAX_SELECTED at most."""
    if "all" not in request.form:
        return list(dict.fromkeys(request.form.getlist("id")))
    find = queries.document_ids if kind == "documents" else queries.job_ids
    with read_session() as session:
        return find(session, current_user, actions.MAX_SELECTED, **forms.list_filters(*FILTERS))


def _confirm(action: SelectionAction, name: str, kind: str, ids: list[str], back: str) -> str:
    """The confirmation page, with the number of items and the names of the first. Raises `NotFound` for other users' items."""
    find = queries.document if kind == "documents" else queries.job
    words = f"{len(ids):,} {kind if len(ids) != 1 else kind[:-1]}"
    with read_session() as session:
        rows = [find(session, current_user, one) for one in ids[:NAMED]]
    return render_template("jobs/selected.html", act=action, name=name, kind=kind, ids=ids, rows=rows, words=words, back=back)
