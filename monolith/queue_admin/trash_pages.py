"""The trash page: moving old jobs to the trash, with a preview, and restoring them within a day."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as AnyResponse

from monolith.content import formatting
from monolith.db.engine import read_now, read_session
from monolith.errors import Invalid
from monolith.queue_admin import jobs_pages
from monolith.runner.admin import trash
from monolith.web.security import actor, require_admin

UNITS = {"hours": 3600.0, "days": 86400.0}
WITHIN_S = 8.0  # time limit for restoring in one request

blueprint = Blueprint("trash_pages", __name__, url_prefix="/admin/bin")
blueprint.before_request(require_admin)


@blueprint.get("")
def index() -> str:
    """The trash; if the query string says what to clean, also a preview of that."""
    with read_session() as session:
        shown = {
            "cleanings": trash.list_trash(session),
            "asked": request.args,
            "now": read_now(session),
            "words": formatting.STATUS_WORDS,
        }
        preview = _preview(session) if request.args.get("status") else {}
        types = jobs_pages.choices()["type_names"]
        return render_template("queue_admin/trash.html", statuses=trash.CLEANABLE, type_names=types, units=UNITS, **shown, **preview)


def _preview(session: Session) -> dict[str, Any]:
    """What cleaning would move to the trash, or the errors of the form."""
    try:
        criteria = trash.older_than(_age(), request.args["status"], request.args.get("type") or None)
    except Invalid as problem:
        return {"errors": {one.pointer.strip("/"): [one.detail] for one in problem.errors}}
    return {"preview": trash.preview(session, criteria), "criteria": criteria}


def _age() -> float:
    number = request.args.get("age", type=float)
    if number is None or not 0 <= number <= 100_000 or request.args.get("unit", "days") not in UNITS:
        raise Invalid.field("/age", "Enter a number of hours or days, 0 or more.")
    return number * UNITS[request.args.get("unit", "days")]


@blueprint.post("/<int:cleaning_id>/restore")
def restore(cleaning_id: int) -> AnyResponse:
    """Restore the jobs of a cleaning from the trash."""
    restored, left = trash.restore(cleaning_id, actor(), within_s=WITHIN_S)
    more = f" {left:,} {'is' if left == 1 else 'are'} still in the trash. Restore again to continue." if left else ""
    flash(f"{restored:,} {'job' if restored == 1 else 'jobs'} restored.{more}")
    return redirect(url_for("trash_pages.index"), 303)
