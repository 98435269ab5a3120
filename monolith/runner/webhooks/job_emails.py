"""E-mails to those who want one when a job of theirs ends: jobs of the type `email`, in the transaction that reads the ends.

Ends that are read together are told together, in one e-mail. Follow-ups and what Intray does by itself are not told.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, or_, select

from monolith.config import settings
from monolith.db.models import Document, Job, JobEvent, User
from monolith.job_types import registry
from monolith.runner.ledger import insert
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.ledger.transitions import JobRecord

TYPE = "email"
MOST_NAMED = 20  # in one e-mail
MOST_TITLE = 80  # characters
WORDS = {"finished": "is done", "failed": "failed"}
_wants = or_(and_(User.mail_failed, JobEvent.name == "failed"), and_(User.mail_done, JobEvent.name == "finished"))


def anybody_wants(connection: Connection) -> bool:
    return is_possible() and connection.scalar(select(User.id).where(or_(User.mail_failed, User.mail_done)).limit(1)) is not None


def is_possible() -> bool:
    """Whether there is a mail server: without one, messages are only kept as files."""
    return settings().smtp_url is not None


def submit(connection: Connection, begin: int, end: int) -> list[JobRecord]:
    """Accept the e-mails about the ends among these events; to be pushed after the commit."""
    job_type = registry.discover().get(TYPE)
    if job_type is None or not is_possible():
        return []
    of_owner: dict[tuple[int, str], list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(_ends(begin, end)):
        of_owner[row.owner_id, row.email].append(row)
    jobs: list[JobRecord] = []
    for (owner_id, email), ends in of_owner.items():
        params = job_type.load_params({"to": [email], **_letter(ends)}, has_document=False)
        jobs += insert.insert_jobs(connection, [JobSpec(job_type, params, "low")], owner_id=owner_id)
    return jobs


def _ends(begin: int, end: int) -> Select[Any]:
    silent = [one.name for one in registry.discover().values() if one.is_internal] + [TYPE]
    told: Any = select(JobEvent.name, Job.id, Job.type, Job.owner_id, Job.error_message, Document.title, User.email)
    found: Select[Any] = (
        told.join(Job, Job.id == JobEvent.job_id)
        .join(User, User.id == Job.owner_id)
        .outerjoin(Document, Document.id == Job.document_id)
        .where(JobEvent.id > begin, JobEvent.id <= end, _wants, JobEvent.at >= User.mail_since)
        .where(Job.parent_id.is_(None), Job.type.not_in(silent))
        .order_by(JobEvent.id)
    )
    return found


def _letter(ends: list[Row[Any]]) -> dict[str, str]:
    """Its subject and text. Titles may be a stranger's, of a page that was fetched: one line of plain text, cut short."""
    lines = [_line(one) for one in ends[:MOST_NAMED]]
    if len(ends) > MOST_NAMED:
        lines.append(f"and {len(ends) - MOST_NAMED} more")
    subject = lines[0].partition("\n")[0] if len(ends) == 1 else f"{len(ends)} of your jobs have finished"
    lines.append("You receive this e-mail because job notifications are turned on in your account.")
    subject = "".join(letter if letter.isprintable() else " " for letter in subject)
    return {"subject": subject, "text": "\n\n".join(lines)}


def _line(end: Row[Any]) -> str:
    title = " ".join((end.title or "").split())[:MOST_TITLE]
    name = f"{end.type} of “{title}”" if title else end.type
    said = f"{name} {WORDS[end.name]}"
    return f"{said}\n{end.error_message}" if end.name == "failed" and end.error_message else said
