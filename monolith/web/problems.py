"""Error responses: problem+json (RFC 9457) under /api and for /metrics, a page elsewhere. Never a stack trace."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from flask import Flask, Response, g, jsonify, make_response, redirect, render_template, request, url_for
from flask_login import AnonymousUserMixin
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from monolith.db.away import DatabaseAway, is_locked
from monolith.errors import Invalid, Problem, TooLarge, Unauthorized, Unavailable
from monolith.job_types.validation import field_errors
from monolith.web.public_address import own_full_path, own_path

DATABASE_RETRY_S = 5
FOR_PROGRAMS = ("metrics.metrics",)  # outside of /api, and asked for by programs all the same
log = structlog.get_logger()


class HttpProblem(Problem):
    """An HTTP error of Flask, werkzeug or webargs as a `Problem`."""

    def __init__(self, error: HTTPException) -> None:
        super().__init__(error.description or "The request cannot be processed.")
        self.status = error.code or 500
        self.code = HTTPStatus(self.status).phrase.lower().replace(" ", "_")
        self.title = HTTPStatus(self.status).phrase
        self.allowed = sorted(getattr(error, "valid_methods", None) or ())
        if self.status == TooLarge.status:
            self.detail = f"The whole request is larger than {(request.max_content_length or 0) / 1024 / 1024:.3g} MB. Send less."
        messages = (getattr(error, "data", None) or {}).get("messages")
        if messages:
            self.code, self.title = Invalid.code, Invalid.title
            self.detail = "Some fields are invalid."
            self.errors = [error for of_location in messages.values() for error in field_errors(of_location)]  # from webargs


def register(app: Flask) -> None:
    """Register the error handlers."""
    app.register_error_handler(Problem, answer)
    app.register_error_handler(HTTPException, lambda error: answer(HttpProblem(error)))
    app.register_error_handler(DatabaseAway, _database_away)
    app.register_error_handler(Exception, _unexpected)


def _database_away(error: DatabaseAway) -> AnyResponse:
    log.error("row_locked" if is_locked(error) else "database_away", error=str(error.orig))
    _forget_user()
    what = "Something else has locked the data that this changes." if is_locked(error) else "The database is not responding."
    return answer(Unavailable(f"{what} Nothing was saved. Try again.", retry_after=DATABASE_RETRY_S))


def _unexpected(error: Exception) -> AnyResponse:
    log.exception("request_failed", path=request.path)
    if isinstance(error, SQLAlchemyError):
        _forget_user()
    unknown = Problem(f"Something went wrong on the server. Give an admin this request id: {g.request_id}.")
    unknown.status, unknown.code, unknown.title = 500, "internal_error", "Something went wrong"
    return answer(unknown)


def _forget_user() -> None:
    """The error page shows the user, and loading one would fail again."""
    g._login_user = AnonymousUserMixin()


def answer(problem: Problem) -> AnyResponse:
    """The response for a problem: JSON for programs, else a page; who is not signed in is redirected to do so."""
    if request.path.startswith("/api/") or request.endpoint in FOR_PROGRAMS:
        return _with_headers(_json(problem), problem)
    if isinstance(problem, Unauthorized) and request.method == "GET" and "Authorization" not in request.headers:
        return redirect(url_for("auth.sign_in", next=own_full_path()), 303)
    return _with_headers(make_response(render_template("error.html", problem=problem), problem.status), problem)


def _json(problem: Problem) -> Response:
    response = jsonify(
        type="about:blank" if problem.code == "internal_error" else f"urn:intray:{problem.code}",
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        instance=own_path(),
        code=problem.code,
        request_id=g.request_id,
        errors=[{"detail": error.detail, "pointer": error.pointer} for error in problem.errors],
    )
    response.status_code = problem.status
    response.content_type = "application/problem+json"
    return response


def _with_headers(response: Response, problem: Problem) -> Response:
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(problem.retry_after)
    if isinstance(problem, HttpProblem) and problem.allowed:
        response.headers["Allow"] = ", ".join(problem.allowed)
    if problem.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
