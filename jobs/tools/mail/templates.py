"""Letters from templates: `jobs/mail_templates/<name>.txt`, whose first line is the subject, and `<name>.html` beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from functools import cache
from typing import TYPE_CHECKING, Any

from monolith.config import ROOT

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = ROOT / "jobs" / "mail_templates"
MAX_SUBJECT = 200
MAX_ADDRESS = 254
_ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)
_PLAIN = SMTP.clone(cte_type="7bit")  # so that every server can take it


class BadTemplate(ValueError):
    """The template lacks a value, or cannot do anything with it. The message says which."""


@dataclass(frozen=True)
class EmailTemplate:
    subject: str
    text: str
    html: str


@dataclass(frozen=True)
class Envelope:
    """Who writes to whom. `hidden` get the letter and do not stand in it."""

    sender: str
    to: list[str]
    cc: list[str]
    hidden: list[str]
    reply_to: str | None = None

    @property
    def recipients(self) -> list[str]:
        return list(dict.fromkeys([*self.to, *self.cc, *self.hidden]))


def templates() -> list[str]:
    """The names of the templates there are."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def address(text: str) -> str:
    """The address as it goes over the wire: ASCII, its domain in lower case and IDNA. Raises ValueError when it is none."""
    local, _, domain = text.rpartition("@")
    try:
        found = f"{local}@{domain.encode('idna').decode().lower()}"
    except UnicodeError:
        found = ""
    if len(found) > MAX_ADDRESS or not _ADDRESS.fullmatch(found):
        raise ValueError(f"{text[:80]!r} is not an e-mail address. Write it as name@example.org, without a display name.")
    return found


def render(template: str, values: dict[str, Any]) -> EmailTemplate:
    """The letter of a template; in HTML every value is escaped. Raises `BadLetter`."""
    from jinja2 import TemplateError

    try:
        head, _, body = (FOLDER / f"{template}.txt").read_text().partition("\n")
        subject, text = (_environment().from_string(part).render(values) for part in (head.removeprefix("Subject:"), body))
        html = _environment().get_template(f"{template}.html").render(values)
    except (TemplateError, TypeError, ValueError, AttributeError) as error:
        raise BadTemplate(f"The template {template} cannot be filled in: {error}.") from None
    one_line = " ".join(subject.split())  # a title with a line break in it must not begin another header
    return EmailTemplate(one_line[:MAX_SUBJECT], f"{text.strip()}\n", html)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=select_autoescape(["html"], default=False, default_for_string=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def message_id(job_id: str, sender: str) -> str:
    """The same in every attempt and every run of a job, so that a repeat is recognised as one."""
    return f"<{job_id}@{parseaddr(sender)[1].rpartition('@')[2]}>"


def compose(letter: EmailTemplate, envelope: Envelope, job_id: str) -> bytes:
    """The message as it goes over the wire. Raises ValueError for a header with a line break in it."""
    message = EmailMessage(policy=_PLAIN)
    headers = {
        "From": envelope.sender,
        "To": ", ".join(envelope.to),
        "Cc": ", ".join(envelope.cc),
        "Reply-To": envelope.reply_to,
        "Subject": letter.subject,
        "Date": format_datetime(datetime.now(UTC)),
        "Message-ID": message_id(job_id, envelope.sender),
        "X-Intray-Job": job_id,
        "Auto-Submitted": "auto-generated",  # RFC 3834: no out-of-office note answers it
    }
    for name, value in headers.items():
        if value:
            message[name] = value
    message.set_content(letter.text)
    message.add_alternative(letter.html, subtype="html")
    return message.as_bytes()
