"""The alerts page: current and resolved alerts, the rules, and where notifications go."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, render_template, request

from monolith.config import settings
from monolith.db.engine import read_now, read_session
from monolith.runner.monitoring import alerts
from monolith.runner.monitoring.alert_rules import RULES
from monolith.web.security import require_admin

SHOWN = 50  # resolved alerts on one page

blueprint = Blueprint("alerts_pages", __name__, url_prefix="/admin/alerts")
blueprint.before_request(require_admin)


@blueprint.get("")
def index() -> str:
    """Current alerts, then resolved ones, newest first; and the rules: code, severity, condition with its limit, and fix."""
    rules = [(code, rule.severity, rule.when.format(limit=rule.limit()), rule.fix) for code, rule in RULES.items()]
    return render_template("queue_admin/alerts.html", **_shown(), rules=rules, notifications=_notifications())


@blueprint.get("/open")
def opened() -> str:
    """The current alerts only, for the page to refresh."""
    with read_session() as session:
        return render_template("queue_admin/_alerts.html", current=alerts.current_alerts(session), now=read_now(session))


def _shown() -> dict[str, Any]:
    before_id = request.args.get("before", type=int)
    with read_session() as session:
        over = alerts.closed(session, SHOWN + 1, before_id)
        current = alerts.current_alerts(session)
        moment = read_now(session)
    return {"current": current, "over": over[:SHOWN], "older": over[SHOWN - 1].id if len(over) > SHOWN else None, "now": moment}


def _notifications() -> dict[str, Any]:
    """Where notifications go, without secrets."""
    return {
        "mail": bool(settings().smtp_url),
        "addresses": settings().alert_email,
        "webhook": urlsplit(settings().alert_webhook_url or "").hostname,  # its path may be a secret
    }
