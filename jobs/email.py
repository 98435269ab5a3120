"""Send an e-mail, once: what is known of it outlives the attempt that sent it."""

from __future__ import annotations

import json
from email.utils import parseaddr
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from monolith.config import settings
from monolith.errors import BadSetting
from monolith.job_types.registry import Job, Permanent, exponential, job_type

from .tools.mail import smtp, templates

MAX_RECIPIENTS = 20
MAX_ADDRESSES = 1500  # characters of all recipients: they stand in one note of the timeline
MAX_VALUES = 100_000  # characters of JSON
NOBODY = "Intray <intray@localhost>"  # who writes where nothing is sent
KEPT = "No mail server is set up (SMTP_URL), so the message was saved as a file instead."


class Address(fields.String):
    """One e-mail address, as it goes over the wire."""

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
        """The recipients are not too many, and the template has all it needs."""
        everybody = [*data["to"], *data["cc"], *data["bcc"]]
        if len(everybody) > MAX_RECIPIENTS or len(", ".join(everybody)) > MAX_ADDRESSES:
            raise ValidationError(
                f"At most {MAX_RECIPIENTS} recipients in total, with at most {MAX_ADDRESSES:,} characters in all addresses.", "to"
            )
        for name in ("subject", "text") if data["template"] == "message" else ():
            if data[name] is None:
                raise ValidationError("Required by the template message. Give it, or use another template.", name)
        try:
            _letter(data)
        except templates.BadTemplate as error:
            raise ValidationError(str(error), "values") from None


def _letter(params: dict[str, Any]) -> templates.EmailTemplate:
    given = {name: params[name] for name in ("subject", "text") if params[name] is not None}
    return templates.render(params["template"], {**params["values"], **given})


@job_type(
    queue="default",
    params=Params,
    takes="nothing",
    max_attempts=5,
    backoff=exponential(2),
    timeout=60,
    available=smtp.why_off,
    io_bound=True,
    submittable_by="admin",
)
def email(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Send an e-mail.

    Sends text and HTML from a template through the server at `SMTP_URL`. The `Message-ID` is derived from the job's id and stays
    the same in every attempt. Recipients whose message the server confirmed do not get it again; if a crash left that unclear,
    it is sent again and the result says so. Without `SMTP_URL`, the message is saved as a file.
    """
    try:
        server = smtp.server()
    except BadSetting as error:
        raise Permanent(str(error)) from None
    envelope = _envelope(params)
    content = templates.compose(_letter(params), envelope, job.id)
    known = {"message_id": templates.message_id(job.id, envelope.sender), "recipients": envelope.recipients}
    if server is None:
        job.attach("message.eml", content, "message/rfc822")
        return {"sent": False, "note": KEPT, **known}
    return {**_send(job, server, envelope, content), **known}


def _envelope(params: dict[str, Any]) -> templates.Envelope:
    sender = settings().mail_from or ("" if settings().smtp_url else NOBODY)
    try:
        templates.address(parseaddr(sender)[1])
    except ValueError:
        raise Permanent("MAIL_FROM is not an e-mail address. An admin must set it, for example to Intray <intray@example.org>.") from None
    return templates.Envelope(sender, params["to"], params["cc"], params["bcc"], params["reply_to"])


def _send(job: Job, server: smtp.Server, envelope: templates.Envelope, content: bytes) -> dict[str, Any]:
    record = smtp.Record(job)
    todo = record.open(envelope.recipients)
    repeated = sorted(record.unknown.intersection(todo))
    if todo:
        job.progress(None, "sending again" if repeated else "sending")
        smtp.send(server, parseaddr(envelope.sender)[1], todo, content, record)
    return {
        "sent": bool(record.accepted),
        "note": _note(todo, repeated),
        "accepted": [{"address": one, "reply": reply} for one, reply in record.accepted.items()],
        "refused": [{"address": one, "reply": reply} for one, reply in record.refused.items()],
        "repeated": repeated,
    }


def _note(todo: list[str], repeated: list[str]) -> str:
    if repeated:
        return (
            f"An earlier attempt ended before the server confirmed the message, so it was sent again: {', '.join(repeated)} "
            "may receive it twice, with the same Message-ID."
        )
    return "The mail server accepted it." if todo else "An earlier attempt had already sent it; it was not sent again."
