"""Pages of outgoing webhooks: list, create, change, test and delete them, and see their deliveries."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_login import current_user
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as AnyResponse

from monolith.db.engine import read_now, read_session
from monolith.documents import queries
from monolith.errors import Conflict, Problem
from monolith.runner.webhooks import endpoints
from monolith.runner.webhooks.models import ENDINGS, EVENTS
from monolith.web import forms

ROWS = 25
SOON_S = 10  # the page refreshes itself for deliveries that are due within this time
blueprint = Blueprint("webhook_pages", __name__, url_prefix="/webhooks")
Answer = str | AnyResponse | tuple[str, int]


@blueprint.get("")
def index() -> str:
    """My webhooks, and the form for a new one."""
    return _index(MultiDict([("events", name) for name in ENDINGS.values()]), {})


@blueprint.post("")
def create() -> Answer:
    """Create a webhook and show its secret once, or show the form again with each error at its field."""
    try:
        webhook, secret = endpoints.create(current_user, request.form.get("url", "").strip(), request.form.getlist("events"))
    except Problem as problem:
        return _index(request.form, forms.errors_by_name(problem)), problem.status
    return render_template("jobs/webhook_secret.html", webhook=webhook, secret=secret, until=None), 201


def _index(typed: MultiDict[str, str], errors: dict[str, list[str]]) -> str:
    with read_session() as session:
        page = queries.webhooks(session, current_user, ROWS, request.args.get("after"))
        shown = {"typed": typed, "errors": errors, "events": EVENTS, "most": endpoints.MAX_PER_USER}
        return render_template("jobs/webhooks.html", page=page, now=read_now(session), **shown)


@blueprint.get("/<webhook_id>")
def show(webhook_id: str) -> str:
    """One webhook and its deliveries."""
    return _show(webhook_id, None, {})


def _show(webhook_id: str, typed: MultiDict[str, str] | None, errors: dict[str, list[str]]) -> str:
    with read_session() as session:
        webhook = endpoints.find(session, current_user, webhook_id)
        page = queries.deliveries(session, current_user, webhook_id, ROWS, request.args.get("after"))
        filled = typed or MultiDict([("url", webhook.url), *(("events", name) for name in webhook.events)])
        moment = read_now(session)
        is_refreshing = any(one.state == "sending" or (one.state == "waiting" and (one.due_at or 0) < moment + SOON_S) for one in page.rows)
        shown: dict[str, Any] = {"typed": filled, "errors": errors, "events": EVENTS, "is_moving": is_refreshing}
        return render_template("jobs/webhook.html", webhook=webhook, page=page, now=moment, **shown)


@blueprint.post("/<webhook_id>")
def change(webhook_id: str) -> Answer:
    """Change its URL or its events."""
    try:
        endpoints.change(current_user, webhook_id, request.form.get("url", "").strip(), request.form.getlist("events"))
    except Problem as problem:
        if not problem.errors:
            raise
        return _show(webhook_id, request.form, forms.errors_by_name(problem)), problem.status
    return _back(webhook_id, "The webhook was saved.")


@blueprint.post("/<webhook_id>/<any(enable, disable):act>")
def switch(webhook_id: str, act: str) -> AnyResponse:
    """Enable or disable it."""
    endpoints.change(current_user, webhook_id, enabled=act == "enable")
    return _back(webhook_id, f"The webhook was {act}d.")


@blueprint.post("/<webhook_id>/rotate")
def rotate(webhook_id: str) -> str:
    """Create a new secret and show it once."""
    secret, until = endpoints.rotate(current_user, webhook_id)
    with read_session() as session:
        webhook = endpoints.find(session, current_user, webhook_id)
    return render_template("jobs/webhook_secret.html", webhook=webhook, secret=secret, until=until)


@blueprint.post("/<webhook_id>/test")
def test(webhook_id: str) -> AnyResponse:
    """Send a test event."""
    endpoints.test(current_user, webhook_id)
    return _back(webhook_id, "A test event is being sent. Its outcome appears below in a moment.")


@blueprint.post("/<webhook_id>/deliveries/<delivery_id>/replay")
def replay(webhook_id: str, delivery_id: str) -> AnyResponse:
    """Send a delivery again."""
    try:
        endpoints.replay(current_user, webhook_id, delivery_id)
    except Conflict as problem:
        return _back(webhook_id, problem.detail)
    return _back(webhook_id, "The event is being sent again.")


@blueprint.route("/<webhook_id>/delete", methods=["GET", "POST"])
def delete(webhook_id: str) -> Answer:
    """Confirm, then delete it with its deliveries."""
    if request.method == "POST":
        endpoints.remove(current_user, webhook_id)
        flash("The webhook was deleted.")
        return redirect(url_for("webhook_pages.index"), 303)
    with read_session() as session:
        return render_template("jobs/webhook_delete.html", webhook=endpoints.find(session, current_user, webhook_id))


def _back(webhook_id: str, message: str) -> AnyResponse:
    flash(message)
    return redirect(url_for("webhook_pages.show", webhook_id=webhook_id), 303)
