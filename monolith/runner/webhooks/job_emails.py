"""E-mails to users about the end of their jobs: jobs of the type `email`, inserted in the transaction that reads the events.

Jobs that are read together are reported in one e-mail. Follow-up jobs and internal jobs are not reported.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, or_, select

from monolith.config import settings
from monolith.db.models import Document, Job, JobEvent, User
from monolith.job_types import registry
from monolith.runner.ledger import insert
from monolith.runner.ledger.guarded_update import JobRecord
from monolith.runner.ledger.insert import JobSpec

TYPE = "email"
MAX_NAMED = 20  # in one e-mail
MAX_TITLE = 80  # characters
WORDS = {"finished": "is done", "failed": "failed"}
_wants = or_(and_(User.mail_failed, JobEvent.name == "failed"), and_(User.mail_done, JobEvent.name == "finished"))


def has_subscribers(connection: Connection) -> bool:
    """Whether any user wants e-mails and a mail server is configured."""
    return is_possible() and connection.scalar(select(User.id).where(or_(User.mail_failed, User.mail_done)).limit(1)) is not None


def is_possible() -> bool:
    """Whether a mail server is configured. Without one, messages are only saved as files."""
    return settings().smtp_url is not None


def submit(connection: Connection, begin: int, end: int) -> list[JobRecord]:
    """Insert jobs for e-mails about the ends in `(begin, end]`; the caller pushes them after the commit."""
    job_type = registry.discover().get(TYPE)
    if job_type is None or not is_possible():
        return []
    of_owner: dict[tuple[int, str], list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(_ends(begin, end)):
        of_owner[row.owner_id, row.email].append(row)
    jobs: list[JobRecord] = []
    for (owner_id, email), ends in of_owner.items():
        params = job_type.load_params({"to": [email], **_letter(ends)}, has_document=False)
        jobs += insert.insert_jobs([JobSpec(job_type, params, "low")], connection=connection, owner_id=owner_id)
    return jobs


def _ends(begin: int, end: int) -> Select[Any]:
    silent = registry.internal_types() + [TYPE]
    columns: Any = select(JobEvent.name, Job.id, Job.type, Job.owner_id, Job.error_message, Document.title, User.email)
    found: Select[Any] = (
        columns.join(Job, Job.id == JobEvent.job_id)
        .join(User, User.id == Job.owner_id)
        .outerjoin(Document, Document.id == Job.document_id)
        .where(JobEvent.id > begin, JobEvent.id <= end, _wants, JobEvent.at >= User.mail_since)
        .where(Job.parent_id.is_(None), Job.type.not_in(silent))
        .order_by(JobEvent.id)
    )
    return found


def _letter(ends: list[Row[Any]]) -> dict[str, str]:
    """Subject and text. Titles may come from fetched pages, so they are cut to one short line of plain text."""
    lines = [_line(one) for one in ends[:MAX_NAMED]]
    if len(ends) > MAX_NAMED:
        lines.append(f"and {len(ends) - MAX_NAMED} more")
    subject = lines[0].partition("\n")[0] if len(ends) == 1 else f"{len(ends)} of your jobs have finished"
    lines.append("You receive this e-mail because job notifications are turned on in your account.")
    subject = "".join(letter if letter.isprintable() else " " for letter in subject)
    return {"subject": subject, "text": "\n\n".join(lines)}


def _line(end: Row[Any]) -> str:
    title = " ".join((end.title or "").split())[:MAX_TITLE]
    name = f"{end.type} of “{title}”" if title else end.type
    text = f"{name} {WORDS[end.name]}"
    why = [end.error_message] if end.name == "failed" and end.error_message else []
    link = [settings().address_of(f"/jobs/{end.id}")] if settings().public_url else []
    return "\n".join([text, *why, *link])
