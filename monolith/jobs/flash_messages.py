"""Messages that the next page shows once, about what the user's last action has done."""

from __future__ import annotations

from collections import Counter

from flask import flash, url_for
from markupsafe import Markup

from monolith.db.engine import read_session
from monolith.documents import queries
from monolith.documents.actions import BulkResult
from monolith.documents.submission import Submitted

SHOWN = 5  # reasons: messages travel in a cookie
LONGEST = 200  # characters of a reason


def flash_submitted(submitted: Submitted, rejected: list[dict[str, str]]) -> None:
    """Show how many documents were accepted if there are several, which files were rejected, and whether one is a duplicate."""
    if len(submitted.documents) > 1 or rejected:
        flash(f"{_count(len(submitted.documents), 'document was', 'documents were')} accepted.")
    for one in rejected[:SHOWN]:
        flash(f"Rejected: {one['detail'][:LONGEST]}", "warn")
    if len(rejected) > SHOWN:
        flash(f"{len(rejected) - SHOWN} more {'was' if len(rejected) - SHOWN == 1 else 'were'} rejected.", "warn")
    with read_session() as session:
        firsts = queries.firsts(session, submitted.documents)
    for first_id in list(firsts.values())[:1]:
        link = Markup('You already submitted <a href="{}">this document</a>.')
        flash(link.format(url_for("document_pages.document", document_id=first_id)), "warn")


def flash_bulk_result(result: BulkResult, one: str, many: str) -> None:
    """Show how many of the selected items were changed, how many were not, and why; `one` and `many` say what happened to them."""
    flash(f"{_count(result.changed, one, many)}.", "" if result.changed else "warn")
    for why, number in Counter(result.skipped.values()).most_common(SHOWN):
        flash(f"{number:,} not changed: {why[:LONGEST]}", "warn")


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
