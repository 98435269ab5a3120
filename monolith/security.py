"""What guards every request: who is asking, CSRF, sizes, rate limits, and the headers of every answer."""

from __future__ import annotations

import math
import re
import time
import uuid

import structlog
from flask import Flask, Response, current_app, g, request
from flask.sessions import SecureCookieSessionInterface
from flask_login import AnonymousUserMixin, LoginManager, current_user
from flask_wtf.csrf import CSRFError, CSRFProtect
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from werkzeug.middleware.proxy_fix import ProxyFix

from monolith import strict_json
from monolith.auth import accounts
from monolith.errors import Forbidden, Problem, TooManyRequests, Unauthorized
from monolith.models import User

JSON_LIMIT = 256 * 1024  # bytes of a JSON body, but for documents, whose text is in it
OF_DOCUMENTS = ("documents.Documents", "batches.Batches")
SAFE = ("GET", "HEAD", "OPTIONS")
OPEN_ENDPOINTS = ("static", "health.health", "health.ready", "auth.sign_in", "api-docs.openapi_json", "docs.page")
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)

csrf = CSRFProtect()
login_manager = LoginManager()
log = structlog.get_logger()


def init_app(app: Flask) -> None:
    app.config["WTF_CSRF_CHECK_DEFAULT"] = False  # _check_csrf decides: a bearer token needs none
    for extension in (csrf, login_manager):
        extension.init_app(app)
    app.extensions["rates"] = FixedWindowRateLimiter(MemoryStorage())
    for step in (_name_request, _require_user, _check_text, _check_csrf, _check_json):
        app.before_request(step)
    app.after_request(_add_headers)
    app.teardown_request(_forget_request)


class Sessions(SecureCookieSessionInterface):
    """The cookie of a session goes over TLS only, wherever the request came by it."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure


def trust_proxies(app: Flask, proxies: int) -> None:
    """Believe what so many proxies in front of us say of the caller's address and of TLS; 0: believe nobody, anybody could say it."""
    app.session_interface = Sessions()
    if proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=0)  # type: ignore[method-assign]


@login_manager.user_loader
def _user_of_session(user_id: str) -> User | None:
    return accounts.user_by_id(user_id)


def _bearer() -> str | None:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def _name_request() -> None:
    """Every request has an id, the caller's own where it is a sane one; logs, jobs and errors carry it."""
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{8,64}", given) else uuid.uuid4().hex
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _check_text() -> None:
    """No database keeps a NUL in a text: one in a path, a query or a form is refused before it gets there."""
    texts = [request.path, *request.args.values()]
    if request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data"):
        texts += request.form.values()
    if any("\0" in text for text in texts):
        raise Problem("There is a NUL character in the address or in a field. Leave it out.")


def _require_user() -> None:
    """Every door is closed but those named in OPEN_ENDPOINTS; what does not exist answers 404 to all."""
    if request.endpoint is None or request.endpoint in OPEN_ENDPOINTS:
        return
    secret = _bearer()
    if secret is None and not current_user.is_authenticated:
        raise Unauthorized("Give a token in the header 'Authorization: Bearer ...', or sign in.")
    if secret is not None and not _sign_in_by(secret):
        raise Unauthorized("This token is unknown or was revoked. Create one with: python manage.py token create --email YOU")


def _sign_in_by(secret: str) -> bool:
    """For this request, the user is the token's: a session that comes with it says nothing."""
    user = accounts.user_of_token(secret) if secret else None
    g._login_user = user or AnonymousUserMixin()
    return user is not None


def _check_csrf() -> None:
    """A browser sends its cookie by itself, so what changes something must also carry our token; programs carry theirs."""
    if request.method in SAFE or _bearer() is not None or request.endpoint is None:
        return
    try:
        csrf.protect()
    except CSRFError as error:
        raise Forbidden(f"{str(error.description).rstrip('.')}. Load the page again and repeat what you did.") from error


def _check_json() -> None:
    """Read a JSON body strictly before anything else does."""
    if request.method in SAFE or not request.path.startswith("/api/"):
        return
    if not request.is_json:
        if request.mimetype != "multipart/form-data" and request.content_length:
            raise Problem("The body is not JSON. Send JSON with the header 'Content-Type: application/json'.")
        return
    if request.endpoint not in OF_DOCUMENTS:
        request.max_content_length = JSON_LIMIT
    try:
        strict_json.loads(request.get_data() or b"{}")
    except ValueError as error:
        raise Problem(f"The body is not JSON that can be read: {error}. Mend it and send it again.") from error


def limit(rate: str, what: str) -> None:
    """Raises `TooManyRequests` when this address did it more often than `rate`, such as `10 per minute`.

    Asked where it matters, and not before every request: looking up that none is limited took 5 % of a submission.
    """
    rates, item, who = current_app.extensions["rates"], parse(rate), request.remote_addr or ""
    if not rates.hit(item, what, who):
        resets_at = rates.get_window_stats(item, what, who).reset_time
        wait_s = max(1, math.ceil(resets_at - time.time()))
        raise TooManyRequests("You tried this too often. Wait a little, and try again.", retry_after=wait_s)


def require_admin() -> None:
    """Raises `Forbidden` for a user who is no admin."""
    if not current_user.is_admin:
        raise Forbidden("This is for admins. Ask one to do it, or to make you one.")


def _add_headers(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.get("request_id", "")
    response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    if request.endpoint != "static":
        response.headers.setdefault("Cache-Control", "private, no-cache" if response.headers.get("ETag") else "no-store")
    log.info("request", method=request.method, path=request.path, status=response.status_code)
    return response


def _forget_request(_: BaseException | None) -> None:
    structlog.contextvars.clear_contextvars()
