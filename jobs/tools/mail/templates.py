"""Renders e-mails from `jobs/mail_templates`: `<name>.txt`, whose first line is the subject, and `<name>.html`."""

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
_PLAIN = SMTP.clone(cte_type="7bit")  # every server accepts it


class BadTemplate(ValueError):
    """A value of the template is missing or cannot be used. The message says which."""


@dataclass(frozen=True)
class EmailContent:
    """The rendered subject, text and HTML of an e-mail."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True)
class Envelope:
    """Sender and recipients. `bcc` are not in the headers."""

    sender: str
    to: list[str]
    cc: list[str]
    bcc: list[str]
    reply_to: str | None = None

    @property
    def recipients(self) -> list[str]:
        return list(dict.fromkeys([*self.to, *self.cc, *self.bcc]))


def templates() -> list[str]:
    """Returns the names of the templates."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def address(text: str) -> str:
    """Returns the address in ASCII, with the domain in lower case and IDNA. Raises ValueError if it is not an address."""
    local, _, domain = text.rpartition("@")
    try:
        found = f"{local}@{domain.encode('idna').decode().lower()}"
    except UnicodeError:
        found = ""
    if len(found) > MAX_ADDRESS or not _ADDRESS.fullmatch(found):
        raise ValueError(f"{text[:80]!r} is not an e-mail address. Write it as name@example.org, without a display name.")
    return found


def render(template: str, values: dict[str, Any]) -> EmailContent:
    """Renders a template; values are escaped in HTML. Raises `BadTemplate`."""
    from jinja2 import TemplateError

    try:
        head, _, body = (FOLDER / f"{template}.txt").read_text().partition("\n")
        subject, text = (_environment().from_string(part).render(values) for part in (head.removeprefix("Subject:"), body))
        html = _environment().get_template(f"{template}.html").render(values)
    except (TemplateError, TypeError, ValueError, AttributeError) as error:
        raise BadTemplate(f"The template {template} cannot be filled in: {error}.") from None
    one_line = " ".join(subject.split())  # a line break in a title must not start another header
    return EmailContent(one_line[:MAX_SUBJECT], f"{text.strip()}\n", html)


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
    """Returns the Message-ID, which is the same in every attempt of a job, so that mail programs recognise a repeat."""
    return f"<{job_id}@{parseaddr(sender)[1].rpartition('@')[2]}>"


def compose(content: EmailContent, envelope: Envelope, job_id: str) -> bytes:
    """Returns the MIME message. Raises ValueError for a header with a line break."""
    message = EmailMessage(policy=_PLAIN)
    headers = {
        "From": envelope.sender,
        "To": ", ".join(envelope.to),
        "Cc": ", ".join(envelope.cc),
        "Reply-To": envelope.reply_to,
        "Subject": content.subject,
        "Date": format_datetime(datetime.now(UTC)),
        "Message-ID": message_id(job_id, envelope.sender),
        "X-Intray-Job": job_id,
        "Auto-Submitted": "auto-generated",  # RFC 3834: prevents out-of-office replies
    }
    for name, value in headers.items():
        if value:
            message[name] = value
    message.set_content(content.text)
    message.add_alternative(content.html, subtype="html")
    return message.as_bytes()
