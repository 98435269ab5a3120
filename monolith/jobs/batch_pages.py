"""The pages of batches: mine, and one with its documents and jobs, how far they are and what failed."""

from __future__ import annotations

import hashlib
from typing import Any

from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask_login import current_user
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as AnyResponse

from monolith.db.engine import read_now, read_session
from monolith.db.models import Document, Job
from monolith.documents import queries, submission
from monolith.jobs import job_page
from monolith.runner.ledger.batches import progress_of, titles
from monolith.runner.monitoring.waiting_reason import explain

ROWS = 25
blueprint = Blueprint("batch_pages", __name__, url_prefix="/batches")


@blueprint.get("")
def index() -> str:
    """My batches, the newest first."""
    with read_session() as session:
        page = queries.batches(session, current_user, ROWS, request.args.get("after"))
        ids = [one.id for one in page.rows]
        known = {"standings": progress_of(session, ids), "titles": titles(session, ids)}
        return render_template("jobs/batches.html", page=page, now=read_now(session), **known)


@blueprint.get("/<batch_id>")
def show(batch_id: str) -> str:
    """One batch: how far it is in all, and each document with its jobs."""
    with read_session() as session:
        return render_template("jobs/batch.html", **_story(session, batch_id))


@blueprint.get("/<batch_id>/live")
def live(batch_id: str) -> AnyResponse | str:
    """The moving part of the batch's page; 204 when it is still as the page shows it."""
    with read_session() as session:
        story = _story(session, batch_id)
        is_seen = request.args.get("seen") == story["version"]
        return Response(status=204) if is_seen else render_template("jobs/_batch.html", **story)


@blueprint.post("/<batch_id>/retry")
def retry(batch_id: str) -> AnyResponse:
    """Start again what failed."""
    requeued = submission.retry_batch(current_user, batch_id)
    flash(f"{requeued} {'job was' if requeued == 1 else 'jobs were'} retried." if requeued else "There were no failed jobs to retry.")
    return redirect(url_for("batch_pages.show", batch_id=batch_id), 303)


def _story(session: Session, batch_id: str) -> dict[str, Any]:
    """What the page tells of a batch. `version` changes with all that the moving part shows."""
    whole = queries.batch(session, current_user, batch_id)
    first = next((job for job in whole.jobs if job.status == "queued"), None)
    found = explain(session, first) if first else None
    reason = job_page.waiting(first, found, 0) if first and found else None
    shown = [(job.id, job.status, job.claims, job.progress, job.progress_note, job.error_message) for job in whole.jobs]
    version = hashlib.sha256(repr((shown, reason, len(whole.documents))).encode()).hexdigest()[:16]
    firsts = queries.firsts(session, whole.documents)
    return {**vars(whole), "parts": _parts(whole.documents, whole.jobs), "reason": reason, "version": version, "firsts": firsts}


def _parts(documents: list[Document], jobs: list[Job]) -> list[tuple[Document, list[Job]]]:
    """Each document with its jobs of this batch."""
    of_document: dict[str | None, list[Job]] = {one.id: [] for one in documents}
    for job in jobs:
        of_document.setdefault(job.document_id, []).append(job)
    return [(one, of_document[one.id]) for one in documents]
