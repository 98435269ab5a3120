"""Pages of batches: my batches, and one batch with its documents and jobs."""

from __future__ import annotations

import hashlib
from typing import Any

from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask_login import current_user
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as AnyResponse

from monolith.db.engine import read_now, read_session
from monolith.db.models import Job
from monolith.documents import actions, queries
from monolith.jobs import flash_messages, job_status_text
from monolith.runner.ledger.batches import progress_of, titles
from monolith.runner.monitoring.waiting_reason import explain

ROWS = 25
blueprint = Blueprint("batch_pages", __name__, url_prefix="/batches")


@blueprint.get("")
def index() -> str:
    """My batches, newest first."""
    with read_session() as session:
        page = queries.batches(session, current_user, ROWS, request.args.get("after"))
        ids = [one.id for one in page.rows]
        known = {"progress": progress_of(session, ids), "titles": titles(session, ids)}
        return render_template("jobs/batches.html", page=page, now=read_now(session), **known)


@blueprint.get("/<batch_id>")
def show(batch_id: str) -> str:
    """One batch: its progress, and each document with its jobs."""
    with read_session() as session:
        return render_template("jobs/batch.html", **_shown(session, batch_id))


@blueprint.get("/<batch_id>/live")
def live(batch_id: str) -> AnyResponse | str:
    """The live part of the batch's page; 204 if it has not changed since the page showed it."""
    with read_session() as session:
        shown = _shown(session, batch_id)
        is_seen = request.args.get("seen") == shown["version"]
        return Response(status=204) if is_seen else render_template("jobs/_batch.html", **shown)


@blueprint.post("/<batch_id>/retry")
def retry(batch_id: str) -> AnyResponse:
    """Retry the failed jobs."""
    result = actions.retry_batch(current_user, batch_id)
    if result.changed or result.skipped:
        flash_messages.flash_bulk_result(result, "job was retried", "jobs were retried")
    else:
        flash("There were no failed jobs to retry.")
    return redirect(url_for("batch_pages.show", batch_id=batch_id), 303)


def _shown(session: Session, batch_id: str) -> dict[str, Any]:
    """The variables of the page. `version` changes whenever the live part changes."""
    whole = queries.batch(session, current_user, batch_id)
    first = next((job for job in whole.jobs if job.status == "queued"), None)
    found = explain(session, first) if first else None
    reason = job_status_text.waiting(first, found, 0) if first and found else None
    jobs = [(job.id, job.status, job.claims, job.progress, job.progress_note, job.error_message) for job in whole.jobs]
    version = hashlib.sha256(repr((jobs, reason, len(whole.documents))).encode()).hexdigest()[:16]
    firsts = queries.firsts(session, whole.documents)
    of_document: dict[str | None, list[Job]] = {one.id: [] for one in whole.documents}
    for job in whole.jobs:
        of_document.setdefault(job.document_id, []).append(job)
    parts = [(one, of_document[one.id]) for one in whole.documents]
    return {**vars(whole), "parts": parts, "reason": reason, "version": version, "firsts": firsts}
