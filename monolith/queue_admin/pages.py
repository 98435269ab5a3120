"""Pages for admins: how many jobs of each queue and type are in which state."""

from __future__ import annotations

from flask import Blueprint, render_template
from redis import RedisError

from monolith.database import reading
from monolith.queue_admin import counting
from monolith.runner import clock, queues
from monolith.security import require_admin

blueprint = Blueprint("queue_admin", __name__, url_prefix="/admin")
blueprint.before_request(require_admin)


@blueprint.get("/")
def overview() -> str:
    """Counts per queue and type, and whether workers, clock and Redis are there."""
    with reading() as session:
        counts = counting.by_queue_and_type(session)
        is_ticking = clock.is_ticking(session)
    return render_template("queue_admin/overview.html", counts=counts, workers=_workers(), is_ticking=is_ticking)


def _workers() -> list[dict[str, str]] | None:
    """What each living worker does; None while Redis is away."""
    try:
        return queues.workers()
    except RedisError:
        return None
