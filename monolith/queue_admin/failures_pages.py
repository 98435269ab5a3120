"""The failures page: failed jobs by error group, and rate-limited retries of a group."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from monolith.db.engine import read_now, read_session
from monolith.runner.admin import bulk_retry, failure_groups
from monolith.runner.admin.bulk_retry import RetryProgress
from monolith.web.security import actor, require_admin

blueprint = Blueprint("failures_pages", __name__, url_prefix="/admin/failures")
blueprint.before_request(require_admin)


@blueprint.get("")
def index() -> str:
    """Error groups, largest first, and the retries in progress."""
    with read_session() as session:
        groups, going = failure_groups.list_groups(session), bulk_retry.recent(session)
        busy = {one.requeue.error_group for one in going if not one.requeue.ended_at}
        shown = {"groups": groups[: failure_groups.SHOWN], "causes": len(groups), "jobs": sum(one.count for one in groups), "busy": busy}
        return render_template("queue_admin/failures.html", rates=bulk_retry.RATES, **shown, **_progress(going))


@blueprint.get("/requeues")
def in_progress() -> str:
    """The retries in progress only, for the page to refresh."""
    with read_session() as session:
        return render_template("queue_admin/_requeues.html", **_progress(bulk_retry.recent(session)))


def _progress(going: list[RetryProgress]) -> dict[str, Any]:
    return {"going": going, "judged": bulk_retry.JUDGED, "now": read_now()}


@blueprint.post("/<cause>/requeue")
def requeue(cause: str) -> AnyResponse:
    """Start a retry of an error group at the chosen rate."""
    bulk_retry.start(cause, request.form.get("per_minute", 0, type=int), actor())
    return redirect(url_for("failures_pages.index"), 303)


@blueprint.post("/requeues/<int:requeue_id>/stop")
def stop(requeue_id: int) -> AnyResponse:
    """Stop a retry; jobs that it has restarted continue."""
    bulk_retry.stop(requeue_id, actor())
    flash("Retry stopped. Jobs that already restarted continue.")
    return redirect(url_for("failures_pages.index"), 303)
