"""The page of alerts: what is wrong now and what to do, what was, when an alert opens, and who is told."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, render_template, request

from monolith.config import settings
from monolith.db.engine import read_now, read_session
from monolith.runner.monitoring import alerts
from monolith.runner.monitoring.alert_rules import RULES
from monolith.web.security import require_admin

SHOWN = 50  # of those that are over, on one page

blueprint = Blueprint("alerts_pages", __name__, url_prefix="/admin/alerts")
blueprint.before_request(require_admin)


@blueprint.get("")
def index() -> str:
    """The open ones on top, then the others, the newest first."""
    return render_template("queue_admin/alerts.html", **_shown(), rules=_rules(), told=_told())


@blueprint.get("/open")
def opened() -> str:
    """The open ones alone, for the page to renew them."""
    with read_session() as session:
        return render_template("queue_admin/_alerts.html", standing=alerts.current_alerts(session), now=read_now(session))


def _shown() -> dict[str, Any]:
    before_id = request.args.get("before", type=int)
    with read_session() as session:
        over = alerts.closed(session, SHOWN + 1, before_id)
        known = alerts.current_alerts(session)
        moment = read_now(session)
    return {"standing": known, "over": over[:SHOWN], "older": over[SHOWN - 1].id if len(over) > SHOWN else None, "now": moment}


def _rules() -> list[tuple[str, str, str, str]]:
    """Code, severity, when with its limit filled in, and what to do."""
    return [(code, rule.severity, rule.when.format(limit=rule.limit()), rule.mend) for code, rule in RULES.items()]


def _told() -> dict[str, Any]:
    """How notices are sent, without any secret."""
    return {
        "mail": bool(settings().smtp_url),
        "addresses": settings().alert_email,
        "webhook": urlsplit(settings().alert_webhook_url or "").hostname,  # its path may be a secret
    }
