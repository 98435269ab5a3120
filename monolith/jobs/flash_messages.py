"""What the next page says once of what a person has just done."""

from __future__ import annotations

from flask import flash, url_for
from markupsafe import Markup

from monolith.db.engine import read_session
from monolith.documents import queries
from monolith.documents.actions import Done
from monolith.documents.submission import Submitted

SHOWN = 5  # reasons: what is flashed travels in a cookie
LONGEST = 200


def tell(submitted: Submitted, refused: list[dict[str, str]]) -> None:
    """Say how many documents were accepted where there is no page for all, which were refused, and which have been handed in before."""
    if len(submitted.documents) > 1 or refused:
        flash(f"{_count(len(submitted.documents), 'document was', 'documents were')} accepted.")
    for one in refused[:SHOWN]:
        flash(f"Rejected: {one['detail'][:LONGEST]}", "warn")
    if len(refused) > SHOWN:
        flash(f"{len(refused) - SHOWN} more {'was' if len(refused) - SHOWN == 1 else 'were'} rejected.", "warn")
    with read_session() as session:
        firsts = queries.firsts(session, submitted.documents)
    for first_id in list(firsts.values())[:1]:
        link = Markup('You already submitted <a href="{}">this document</a>.')
        flash(link.format(url_for("pages.document", document_id=first_id)), "warn")


def tell_done(done: Done, one: str, many: str) -> None:
    """Say how many of a selection were changed, and why the others were not."""
    flash(f"{_count(done.changed, one, many)}.", "" if done.changed else "warn")
    for why in list(dict.fromkeys(done.left.values()))[:SHOWN]:
        flash(f"Not changed: {why[:LONGEST]}", "warn")


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
