"""The job type `email`: sends an e-mail once; its outcome is recorded so that a later attempt does not repeat it."""

from __future__ import annotations

import json
from email.utils import parseaddr
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from monolith.config import settings
from monolith.job_types.registry import Job, Permanent, exponential, job_type

from .tools.mail import smtp, templates

MAX_RECIPIENTS = 20
MAX_ADDRESSES = 1500  # characters of all recipients, which go into one note of the timeline
MAX_VALUES = 100_000  # characters of JSON
LOCAL_SENDER = "Intray <intray@localhost>"  # without a mail server
SAVED_AS_FILE = "No mail server is set up (SMTP_URL), so the message was saved as a file instead."


class Address(fields.String):
    """An e-mail address, normalised to ASCII."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        try:
            return templates.address(super()._deserialize(value, attr, data, **options))
        except ValueError as error:
            raise ValidationError(str(error)) from None


def _one_line(text: str) -> None:
    if any(not letter.isprintable() for letter in text):
        raise ValidationError("The subject must be one line, without control characters.")


def _small(values: dict[str, Any]) -> None:
    if len(json.dumps(values, default=str)) > MAX_VALUES:
        raise ValidationError(f"At most {MAX_VALUES:,} characters of JSON. Shorten it, or give a link.")


class Params(Schema):
    to = fields.List(Address(), required=True, validate=validate.Length(1, MAX_RECIPIENTS), metadata={"description": "Recipients"})
    cc = fields.List(Address(), load_default=list, metadata={"description": "Recipients of a copy"})
    bcc = fields.List(Address(), load_default=list, metadata={"description": "Hidden recipients of a copy"})
    reply_to = Address(load_default=None, allow_none=True, metadata={"description": "Where replies go; `MAIL_FROM` if left out"})
    template = fields.String(
        load_default="message",
        validate=validate.OneOf(templates.templates()),
        metadata={"description": "`message` needs `subject` and `text`; the others have their own subject and need `values`"},
    )
    subject = fields.String(
        load_default=None,
        allow_none=True,
        validate=[validate.Length(1, templates.MAX_SUBJECT), _one_line],
        metadata={"description": "One line"},
    )
    text = fields.String(load_default=None, allow_none=True, validate=validate.Length(1, 100_000), metadata={"description": "Plain text"})
    values = fields.Dict(load_default=dict, validate=_small, metadata={"description": "Values for the template"})

    @validates_schema
    def check(self, data: dict[str, Any], **_: Any) -> None:
        """Checks the number of recipients and the values of the template."""
        everybody = [*data["to"], *data["cc"], *data["bcc"]]
        if len(everybody) > MAX_RECIPIENTS or len(", ".join(everybody)) > MAX_ADDRESSES:
            raise ValidationError(
                f"At most {MAX_RECIPIENTS} recipients in total, with at most {MAX_ADDRESSES:,} characters in all addresses.", "to"
            )
        for name in ("subject", "text") if data["template"] == "message" else ():
            if data[name] is None:
                raise ValidationError("Required by the template message. Give it, or use another template.", name)
        try:
            _render(data)
        except templates.BadTemplate as error:
            raise ValidationError(str(error), "values") from None


def _render(params: dict[str, Any]) -> templates.EmailContent:
    given = {name: params[name] for name in ("subject", "text") if params[name] is not None}
    return templates.render(params["template"], {**params["values"], **given})


@job_type(
    queue="default",
    params=Params,
    takes="nothing",
    max_attempts=5,
    backoff=exponential(2),
    timeout=60,
    available=smtp.unavailable_reason,
    io_bound=True,
    submittable_by="admin",
)
def email(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Send an e-mail.

    Sends text and HTML from a template through the server at `SMTP_URL`. The `Message-ID` is derived from the job's id and stays
    the same in every attempt. Recipients whose message the server confirmed do not get it again; if a crash left that unclear,
    it is sent once more and the result says so. Without `SMTP_URL`, the message is saved as a file.
    """
    server = smtp.server()
    envelope = _envelope(params)
    content = templates.compose(_render(params), envelope, job.id)
    details = {"message_id": templates.message_id(job.id, envelope.sender), "recipients": envelope.recipients}
    if server is None:
        job.attach("message.eml", content, "message/rfc822")
        return {"sent": False, "note": SAVED_AS_FILE, **details}
    return {**_send(job, server, envelope, content), **details}


def _envelope(params: dict[str, Any]) -> templates.Envelope:
    sender = settings().mail_from or ("" if settings().smtp_url else LOCAL_SENDER)
    try:
        templates.address(parseaddr(sender)[1])
    except ValueError:
        raise Permanent("MAIL_FROM is not an e-mail address. An admin must set it, for example to Intray <intray@example.org>.") from None
    return templates.Envelope(sender, params["to"], params["cc"], params["bcc"], params["reply_to"])


def _send(job: Job, server: smtp.MailServer, envelope: templates.Envelope, content: bytes) -> dict[str, Any]:
    log = smtp.DeliveryLog(job)
    pending = log.pending(envelope.recipients)
    repeated = sorted(one for one in pending if log.unanswered[one])
    if pending:
        job.progress(None, "sending again" if repeated else "sending")
        smtp.send(server, parseaddr(envelope.sender)[1], pending, content, log)
    if given_up := log.given_up():
        raise Permanent(
            f"The mail server did not confirm the message to {', '.join(given_up)}, twice, so it is not sent again: "
            "they may have it once or twice. Ask them. To send it again, submit a new job."
        )
    return {
        "sent": bool(log.accepted),
        "note": _note(pending, repeated),
        "accepted": [{"address": one, "reply": reply} for one, reply in log.accepted.items()],
        "refused": [{"address": one, "reply": reply} for one, reply in log.refused.items()],
        "repeated": repeated,
    }


def _note(pending: list[str], repeated: list[str]) -> str:
    if repeated:
        return (
            f"An earlier attempt ended before the server confirmed the message, so it was sent again: {', '.join(repeated)} "
            "may receive it twice, with the same Message-ID."
        )
    return "The mail server accepted it." if pending else "An earlier attempt had already sent it; it was not sent again."
