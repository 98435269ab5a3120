"""The audit log as a page, filtered by the query string, and as a CSV file."""

from __future__ import annotations

from flask import Blueprint, Response, render_template, request
from werkzeug.datastructures import MultiDict

from monolith.db.engine import read_session
from monolith.errors import Invalid
from monolith.queue_admin.audit_api import filters_of
from monolith.runner.admin import audit_log, audit_log_csv
from monolith.web import forms
from monolith.web.responses import saved
from monolith.web.security import require_admin

PAGE_ROWS = 50
FIELDS = ("actor", "act", "subject", "since", "until")

blueprint = Blueprint("audit_pages", __name__, url_prefix="/admin/audit")
blueprint.before_request(require_admin)


@blueprint.get("")
def index() -> str | tuple[str, int]:
    """A page of audit entries, newest first."""
    typed = MultiDict({name: request.args.get(name, "") for name in FIELDS})
    try:
        return _page(typed, filters_of(typed), {})
    except Invalid as problem:
        return _page(typed, audit_log.Filters(), forms.errors_by_name(problem)), 422


@blueprint.get("/audit.csv")
def sheet() -> Response:
    """All matching audit entries as CSV."""
    return saved(Response(audit_log_csv.csv_pieces(filters_of(request.args)), mimetype="text/csv"), "audit.csv")


def _page(typed: MultiDict[str, str], filters: audit_log.Filters, errors: dict[str, list[str]]) -> str:
    with read_session() as session:
        entries, has_more = audit_log.entries(session, filters, PAGE_ROWS, request.args.get("after", type=int))
        acts = audit_log.acts(session)
    given = {name: text for name, text in typed.items() if text}
    return render_template("queue_admin/audit.html", entries=entries, has_more=has_more, acts=acts, typed=typed, given=given, errors=errors)
