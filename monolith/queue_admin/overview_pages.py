"""The overview page for admins: current alerts, charts, queues and workers. Its parts refresh themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, render_template, request, url_for

from monolith.config import settings
from monolith.db.engine import read_session
from monolith.queue_admin import charts
from monolith.queue_admin.llm_api import RATE
from monolith.runner.ledger import clock_lease
from monolith.runner.llm import connection_test
from monolith.runner.monitoring import alerts, history, queue_counts, workers
from monolith.runner.queue import rq_queues
from monolith.web.responses import Fragment, answer, fragment
from monolith.web.security import limit, require_admin

blueprint = Blueprint("overview_pages", __name__, url_prefix="/admin")
blueprint.before_request(require_admin)


@blueprint.get("/")
def overview() -> str:
    """The page with all parts."""
    parts = {name: part() for name, part in PARTS.items()}
    return render_template("queue_admin/overview.html", is_configured=bool(settings().openai_api_key), **parts)


@blueprint.get("/parts/<any(trouble, charts, now):name>")
def part(name: str) -> Response | str:
    """One part of the page; 204 if it has not changed."""
    return answer(PARTS[name]())


@blueprint.post("/ai-test")
def test_language_model() -> str:
    """Send the language model one small request, and show the result."""
    limit(RATE, "ai_test")
    return render_template("queue_admin/ai_test.html", trial=connection_test.run_connection_test())


def _trouble() -> Fragment:
    """The current alerts."""
    with read_session() as session:
        shown = {"current": alerts.current_alerts(session), "workers": workers.names(), "is_ticking": clock_lease.is_ticking(session)}
    shown["is_inline"] = rq_queues.is_inline()
    return _fragment("trouble", shown)


def _charts() -> Fragment:
    """The charts of the chosen period."""
    period = history.PERIODS.get(request.args.get("period", ""), history.PERIODS["1h"])
    by = "queue" if request.args.get("by") == "queue" else "type"
    with read_session() as session:
        found = charts.all_of(history.load(session, period, by))
    shown = {"charts": found, "period": period, "periods": history.PERIODS.values(), "by": by}
    return _fragment("charts", shown, every_s=10, period=period.name, by=by)


def _now() -> Fragment:
    """Queues and workers."""
    with read_session() as session:
        return _fragment("now", {"queues": queue_counts.by_queue(session), "workers": workers.list_workers_or_none(session)})


def _fragment(name: str, shown: dict[str, Any], every_s: int = 2, **at: str) -> Fragment:
    url = url_for("overview_pages.part", name=name, _external=False, **at)
    return fragment(name, url, f"queue_admin/_{name}.html", shown, every_s=every_s)


PARTS: dict[str, Callable[[], Fragment]] = {"trouble": _trouble, "charts": _charts, "now": _now}
