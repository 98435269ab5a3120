"""Failed jobs by cause, and starting a whole cause again at a rate."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from monolith.database import reading
from monolith.errors import NotFound
from monolith.queue_admin import failures
from monolith.runner import requeues, steering
from monolith.runner.requeues import Progress
from monolith.security import actor, require_admin

blueprint = Blueprint("admin_failures", __name__, url_prefix="/admin/failures")
blueprint.before_request(require_admin)


@blueprint.get("")
def index() -> str:
    """The causes, the most frequent first, and what is being requeued."""
    with reading() as session:
        groups, going = failures.by_cause(session), requeues.recent(session)
        busy = {one.requeue.cause for one in going if not one.requeue.ended_at}
        shown = {"groups": groups[: failures.SHOWN], "causes": len(groups), "jobs": sum(one.count for one in groups), "busy": busy}
        return render_template("queue_admin/failures.html", rates=requeues.RATES, **shown, **_going(going))


@blueprint.get("/requeues")
def under_way() -> str:
    """What is being requeued alone, for the page to renew it."""
    with reading() as session:
        return render_template("queue_admin/_requeues.html", **_going(requeues.recent(session)))


def _going(going: list[Progress]) -> dict[str, Any]:
    return {"going": going, "judged": requeues.JUDGED, "now": steering.moment()}


@blueprint.post("/<cause>/requeue")
def requeue(cause: str) -> AnyResponse:
    """Begin to start a cause again, at the rate that was chosen."""
    with reading() as session:
        group = failures.one(session, cause)
    if group is None:
        raise NotFound("Nothing is failed with this cause any more. Load the page of failures again.")
    requeues.start(cause, group.title, request.form.get("per_minute", 0, type=int), actor())
    return redirect(url_for("admin_failures.index"), 303)


@blueprint.post("/requeues/<int:requeue_id>/stop")
def stop(requeue_id: int) -> AnyResponse:
    """Stop it; what was started goes on."""
    requeues.stop(requeue_id, actor())
    flash("The requeue was stopped. What it had started goes on.")
    return redirect(url_for("admin_failures.index"), 303)
