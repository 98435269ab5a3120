"""The checks before every request (authentication, scopes, CSRF, sizes, rate limits), and the headers of every response."""

from __future__ import annotations

import ipaddress
import re
import uuid
from typing import Any

import structlog
from flask import Flask, Request, Response, g, request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask_login import AnonymousUserMixin, LoginManager, current_user
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.routing import IntegerConverter, Map

from monolith import strict_json
from monolith.accounts import login_throttle, sessions, tokens
from monolith.config import settings
from monolith.db.models import SCOPES, User
from monolith.errors import Forbidden, Problem, Unauthorized
from monolith.rate import parse_optional
from monolith.runner.ledger.audit import Actor
from monolith.web import public_address, rate_limit

JSON_LIMIT = 256 * 1024  # bytes of a JSON body; bodies with documents may be larger
WITH_DOCUMENTS = ("documents.Documents", "batches.Batches")
SAFE = ("GET", "HEAD", "OPTIONS")
# Blueprints in which a viewer may change something, and a token only with the scope `admin`.
OWN_ACCOUNT = ("auth", "account", "account_pages")
COOKIE = "intray_session"
OPEN_ENDPOINTS = ("static", "health.health", "health.ready", "metrics.metrics", "auth.sign_in", "api-docs.openapi_json", "docs.page")
UNLIMITED = ("static", "health.health", "health.ready")
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
    app.session_interface = Cookies()
    app.url_map.converters["int"] = RowId
    for step in (_name_request, _require_user, _check_text, _check_csrf, _check_json):
        app.before_request(step)
    app.after_request(_add_headers)
    app.teardown_request(_forget_request)


class RowId(IntegerConverter):
    """The URL converter for row ids: a number larger than a database integer does not match, so it answers 404."""

    def __init__(self, url_map: Map) -> None:
        super().__init__(url_map, max=2**31 - 1)


class Cookies(SecureCookieSessionInterface):
    """Flask's signed cookie. Behind TLS it is `Secure` and has a `__Host-` name, so that no other host can set it.

    Under a prefix of paths it is for that prefix alone, which a `__Host-` name does not allow.
    """

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """The session in the cookie; without a cookie an empty one, for which the signer need not be made."""
        return super().open_session(app, request) if "HTTP_COOKIE" in request.environ else SecureCookieSession()

    def save_session(self, app: Flask, session: Any, response: Any) -> None:
        """Save the session, except with static files: caches must not keep them for each cookie."""
        if request.endpoint != "static":
            super().save_session(app, session, response)

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure

    def get_cookie_name(self, app: Flask) -> str:
        return f"{'__Secure-' if request.script_root else '__Host-'}{COOKIE}" if request.is_secure else COOKIE

    def get_cookie_path(self, app: Flask) -> str:
        return request.script_root or "/"


@login_manager.request_loader
def _user_of_session(_: Request) -> User | None:
    """The user of the session in the cookie; None if the session has ended or expired."""
    found = sessions.user_of_session(session["key"]) if "key" in session else None
    if found is None:
        return None
    g.session_id, user = found
    return user


def sign_in(key: str) -> None:
    """Put the key of a new session into the cookie of this browser, and nothing else."""
    session.clear()
    session["key"] = key


def bearer() -> str | None:
    """The token in the Authorization header, or None."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def _name_request() -> None:
    """Give the request an id, the caller's own if it is valid. Logs, jobs and errors carry it."""
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{8,64}", given) else uuid.uuid4().hex
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _check_text() -> None:
    """Refuse a NUL character in the path, the query or a form: PostgreSQL cannot store it."""
    texts = [request.path, *request.args.values()]
    if request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data"):
        texts += request.form.values()
    if any("\0" in text for text in texts):
        raise Problem("The URL or a field contains a NUL character. Remove it.")


def _require_user() -> None:
    """Require a user on every route except OPEN_ENDPOINTS; an unknown route answers 404 to everybody."""
    try:
        if request.endpoint is not None and request.endpoint not in OPEN_ENDPOINTS:
            require_user()
    finally:
        if request.endpoint not in UNLIMITED:
            _count_request()


def _count_request() -> None:
    """Count the request by user, or by address if the user is unknown. Raises `TooManyRequests`."""
    user = g.get("_login_user")
    is_known = user is not None and user.is_authenticated
    if rate := parse_optional(settings().request_rate if is_known else settings().anonymous_rate):
        g.requests_remaining = rate_limit.count(f"user {user.id}" if is_known else f"address {network()}", rate)
        g.requests_remaining.check()


def signed_in() -> User:
    """The user of this request itself. `current_user` looks it up again for each of its attributes that is read."""
    user: User = current_user._get_current_object()
    return user


def require_user() -> None:
    """Raises `Unauthorized` without a valid token or session, and `Forbidden` where the scope of a token or a viewer does not suffice."""
    secret = bearer()
    if secret is not None and not _sign_in_by(secret):
        raise Unauthorized("This token is unknown, expired or revoked. Create one with: python manage.py token create --email YOU")
    user = signed_in()
    if not user.is_authenticated:
        raise Unauthorized("Send a token in the header 'Authorization: Bearer ...', or sign in.")
    if user.is_viewer and request.method not in SAFE and request.blueprint not in OWN_ACCOUNT:
        raise Forbidden("Your access is read-only. Ask an admin to make this change.")


def _sign_in_by(secret: str) -> bool:
    """Sign in the user of a token for this request, whatever session comes with it; False for an invalid token."""
    found = tokens.user_of_token(secret) if secret else None
    g._login_user = found[0] if found else AnonymousUserMixin()
    if found:
        _check_scope(found[1])
    return found is not None


def _check_scope(scope: str) -> None:
    """Raises `Forbidden` if the scope does not allow the request: `read` is read-only, `submit` excludes account changes."""
    needed = "read" if request.method in SAFE else "admin" if request.blueprint in OWN_ACCOUNT else "submit"
    if SCOPES.index(scope) < SCOPES.index(needed):
        raise Forbidden(f"This token has the scope '{scope}', but this request needs '{needed}'. Use another token.")


def _check_csrf() -> None:
    """Require a CSRF token on unsafe requests with a session: browsers send cookies by themselves. A bearer token needs none."""
    if request.method in SAFE or bearer() is not None or request.endpoint is None:
        return
    try:
        csrf.protect()
    except CSRFError as error:
        raise Forbidden(f"{str(error.description).rstrip('.')}. Reload the page and try again.") from error
    public_address.check_same_site()


def _check_json() -> None:
    """Parse a JSON body strictly before anything else reads it, and limit its size."""
    if request.method in SAFE or not request.path.startswith("/api/"):
        return
    if not request.is_json:
        if request.mimetype != "multipart/form-data" and request.content_length:
            raise Problem("The request body is not JSON. Send JSON with the header 'Content-Type: application/json'.")
        return
    if request.endpoint not in WITH_DOCUMENTS:
        request.max_content_length = JSON_LIMIT
    try:
        strict_json.loads(request.get_data() or b"{}")
    except ValueError as error:
        raise Problem(f"The request body is not valid JSON: {error}. Fix it and send it again.") from error


def limit(rate: str, what: str) -> None:
    """Raises `TooManyRequests` when this user, or this network if anonymous, did `what` more often than `rate`: `10 per minute`."""
    login_throttle.limit(rate, what, f"user {current_user.id}" if current_user.is_authenticated else f"address {network()}")


def browser() -> tuple[str, str]:
    """The address and the User-Agent of the browser, by which its owner recognises a session."""
    return request.remote_addr or "", request.user_agent.string


def network() -> str:
    """The IPv4 address of the client, or its IPv6 /64 network: one customer has all of it."""
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return ""
    return str(ipaddress.ip_network(f"{address}/64", strict=False) if address.version == 6 else address)


def require_admin() -> None:
    """Raises `Forbidden` unless the user is an admin, or a viewer who only reads. Runs before every request of an admin blueprint."""
    if not (current_user.is_admin or (current_user.is_viewer and request.method in SAFE)):
        raise Forbidden("Only admins can open this page.")


def actor() -> Actor:
    """The actor of this request, for the audit log."""
    return Actor(current_user.email, request.remote_addr, g.request_id)


def _add_headers(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.get("request_id", "")
    response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    if remaining := g.get("requests_remaining"):
        for name, value in remaining.headers().items():  # joined with the policy for jobs, if there is one
            response.headers[name] = f"{others}, {value}" if (others := response.headers.get(name)) else value
    if request.endpoint != "static":
        response.headers.setdefault("Cache-Control", "private, no-cache" if response.headers.get("ETag") else "no-store")
    log.info("request", method=request.method, path=request.path, status=response.status_code)
    return response


def _forget_request(_: BaseException | None) -> None:
    structlog.contextvars.clear_contextvars()
