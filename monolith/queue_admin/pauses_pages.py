"""The pauses page: active pauses, pausing and resuming; and template functions about pauses for all pages."""

from __future__ import annotations

from datetime import timedelta, timezone

from flask import Blueprint, flash, redirect, render_template, request, url_for
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as AnyResponse

from monolith.content.formatting import humanise, parse_moment
from monolith.db.engine import read_now, read_session
from monolith.errors import Invalid, NotFound
from monolith.runner.ledger import pauses
from monolith.runner.ledger.pauses import Paused
from monolith.web import forms
from monolith.web.security import actor, require_admin

FOR_HOW_LONG = {"": "Until resumed", "900": "15 minutes", "3600": "1 hour", "14400": "4 hours", "86400": "1 day", "until": "Until …"}
LONGEST_ZONE_MIN = 15 * 60

blueprint = Blueprint("pauses_pages", __name__, url_prefix="/admin/pauses")
blueprint.before_request(require_admin)


@blueprint.get("")
def index() -> str:
    """Active pauses, and a form for a new one; `?scope=` preselects what to pause."""
    return _page(MultiDict({"scope": request.args.get("scope", "")}), {})


@blueprint.post("")
def pause() -> AnyResponse | tuple[str, int]:
    """Pause, or show the form again with each error at its field."""
    try:
        paused = pauses.pause(request.form.get("scope", ""), request.form.get("reason", ""), actor(), until=_until(request.form))
    except NotFound as problem:
        return _page(request.form, {"scope": [problem.detail]}), 422
    except Invalid as problem:
        return _page(request.form, forms.errors_by_name(problem)), 422
    flash(f"Paused {scope_words(paused.scope)}. Running jobs finish; no new jobs start.")
    return redirect(url_for("pauses_pages.index"), 303)


@blueprint.post("/<scope>/resume")
def resume(scope: str) -> AnyResponse:
    """Resume. It is no error if another admin has resumed it already."""
    try:
        pauses.resume(scope, actor())
        flash(f"Resumed {scope_words(scope)}. Waiting jobs start within a second.")
    except NotFound:
        flash("It was already resumed.")
    return redirect(url_for("pauses_pages.index"), 303)


def _page(typed: MultiDict[str, str], errors: dict[str, list[str]]) -> str:
    with read_session() as session:
        held = pauses.active(session)
        moment = read_now(session)
    choices = {"scopes": pauses.scopes(), "for_how_long": FOR_HOW_LONG}
    return render_template("queue_admin/pauses.html", held=held, now=moment, typed=typed, errors=errors, **choices)


def _until(form: MultiDict[str, str]) -> float | None:
    """When the pause ends, in seconds since 1970; None for no end. Raises `Invalid`."""
    chosen = form.get("for", "")
    if chosen == "until":
        return _moment(form.get("until", ""), form.get("zone", ""))
    if chosen not in FOR_HOW_LONG:
        raise Invalid.field("/for", "Choose one of the listed durations.")
    if not chosen:
        return None
    with read_session() as session:
        return read_now(session) + float(chosen)


def _moment(text: str, zone: str) -> float:
    """A time from a browser's control, in seconds since 1970. `zone`: minutes behind UTC, as a script reports them; empty for UTC."""
    behind = int(zone) if zone.removeprefix("-").isascii() and zone.removeprefix("-").isdigit() else 0
    try:
        if abs(behind) > LONGEST_ZONE_MIN:
            raise ValueError
        return parse_moment(text, timezone(-timedelta(minutes=behind)))
    except ValueError:
        raise Invalid.field("/until", "Enter the date and time at which the pause ends, or choose another duration.") from None


# ---- for all templates


@blueprint.app_template_filter()
def scope_words(scope: str) -> str:
    """`queue:default` as `queue default`."""
    kind, _, name = scope.partition(":")
    return {"queue": f"queue {name}", "type": f"job type {humanise(name)}"}.get(kind, "all jobs")


@blueprint.app_template_global()
def pauses_now() -> list[Paused]:
    """Active pauses; none if the database is away, so that error pages still render."""
    try:
        return pauses.known()
    except SQLAlchemyError:
        return []


@blueprint.app_template_global()
def pause_of_queue(name: str) -> Paused | None:
    """The pause in effect for this whole queue."""
    return pauses.of(name, "", pauses_now())


@blueprint.app_template_global()
def pause_of_type(name: str, queue: str = "") -> Paused | None:
    """The pause in effect for this job type: its own, its queue's, or that of all jobs."""
    return pauses.of(queue, name, pauses_now())
