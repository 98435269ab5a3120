"""Pages to sign in and out."""

from __future__ import annotations

import structlog
from flask import Blueprint, g, redirect, render_template, request, session, url_for
from flask_login import current_user
from werkzeug.wrappers import Response

from monolith.accounts import sessions, users
from monolith.config import settings
from monolith.errors import TooManyRequests
from monolith.web import security

blueprint = Blueprint("auth", __name__)
log = structlog.get_logger()
WRONG = "The e-mail address or the password is wrong. Check it and try again."


@blueprint.get("/sign-in")
@blueprint.post("/sign-in")
def sign_in() -> Response | str | tuple[str, int]:
    """Show the form, or sign in and redirect to `next`."""
    target = path_after(request.values.get("next", ""), f"{request.script_root}/")
    if current_user.is_authenticated:
        return redirect(target, 303)
    if request.method == "GET":
        return render_template("auth/sign_in.html", next=target, email="", error=None)
    email = request.form.get("email", "")
    try:
        security.limit(settings().sign_in_rate, "sign in")
        user = users.check_password(email, request.form.get("password", ""))
    except TooManyRequests as problem:
        shown = render_template("auth/sign_in.html", next=target, email=email, error=problem.detail)
        return Response(shown, problem.status, {"Retry-After": str(problem.retry_after)}, mimetype="text/html")
    # never what was typed as the e-mail: it may be a password
    log.info("sign_in", user=user.id if user else None, address=request.remote_addr)
    if user is None:
        return render_template("auth/sign_in.html", next=target, email=email, error=WRONG), 401
    security.sign_in(sessions.begin(user.id, *security.browser()))
    return redirect(target, 303)


@blueprint.post("/sign-out")
def sign_out() -> Response:
    """Sign out. The session ends in the database, so a copy of its cookie is worthless."""
    if "session_id" in g:
        sessions.end(current_user, g.session_id)
    session.clear()
    return redirect(url_for("auth.sign_in"), 303)


def path_after(target: str, home: str) -> str:
    """Where signing in leads: the target if it is a path of Intray, else its home page. An open redirect would lead to other sites."""
    is_own = target.startswith(home) and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if is_own else home
