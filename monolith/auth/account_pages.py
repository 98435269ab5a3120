"""Pages of one's own account: password, tokens, sessions and e-mail settings."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, g, redirect, render_template, request, url_for
from flask_login import current_user
from werkzeug.wrappers import Response

from monolith.accounts import sessions, tokens, users
from monolith.config import settings
from monolith.db.engine import read_now, read_session
from monolith.errors import Conflict, Invalid, TooManyRequests
from monolith.web import security

blueprint = Blueprint("account_pages", __name__, url_prefix="/account")
Answer = str | Response | tuple[str, int]
TOKEN_DAYS = {"7": "In 7 days", "30": "In 30 days", "90": "In 90 days", "365": "In a year", "": "Never"}


@blueprint.get("")
def show() -> str:
    """The account page."""
    return _show({})


def _show(errors: dict[str, list[str]]) -> str:
    shown: dict[str, Any] = {"tokens": tokens.tokens_of(current_user), "sessions": sessions.sessions_of(current_user)}
    with read_session() as session:
        shown["now"] = read_now(session)
    shown["has_mail"] = settings().smtp_url is not None
    return render_template("auth/account.html", **shown, this=g.get("session_id"), errors=errors, lasting=TOKEN_DAYS)


@blueprint.post("/password")
def change_password() -> Answer:
    """Change the password and end all other sessions, or show the form again with its errors."""
    try:
        key = users.change_password(current_user, request.form.get("current", ""), request.form.get("new", ""), *security.browser())
    except (Invalid, TooManyRequests) as problem:
        errors = {error.pointer.strip("/"): [error.detail] for error in problem.errors} or {"current": [problem.detail]}
        return _show(errors), problem.status
    security.sign_in(key)
    return _back("Your password was changed. You were signed out elsewhere.")


@blueprint.post("/tokens")
def create_token() -> Answer:
    """Create a token and show it once, or show the form again with its errors."""
    days = request.form.get("days", "")
    lasts = float(days) if days and days in TOKEN_DAYS else None
    try:
        token, secret = tokens.create_token(current_user.id, request.form.get("name", ""), request.form.get("scope", ""), lasts)
    except (Invalid, Conflict) as problem:
        errors = {error.pointer.strip("/"): [error.detail] for error in problem.errors} or {"name": [problem.detail]}
        return _show(errors), problem.status
    return render_template("auth/token.html", token=token, secret=secret), 201


@blueprint.post("/tokens/<token_id>/revoke")
def revoke_token(token_id: str) -> Response:
    """Revoke a token; it stops working at once."""
    tokens.revoke_token(current_user, token_id)
    return _back("The token was revoked.")


@blueprint.post("/sessions/<session_id>/end")
def end_session(session_id: str) -> Response:
    """End a session."""
    sessions.end(current_user, session_id)
    return _back("The session was signed out.")


@blueprint.post("/sessions/end-others")
def end_other_sessions() -> Response:
    """End all other sessions."""
    ended = sessions.end_others(current_user, g.get("session_id"))
    return _back(f"You were signed out elsewhere: {ended} {'session' if ended == 1 else 'sessions'}.")


@blueprint.post("/mail")
def choose_mail() -> Response:
    """Choose for which jobs an e-mail is sent."""
    users.choose_mail(current_user, failed="failed" in request.form, done="done" in request.form)
    return _back("Your e-mail settings were saved.")


def _back(message: str) -> Response:
    flash(message)
    return redirect(url_for("account_pages.show"), 303)
