"""Sends a message through the server of SMTP_URL, as far as possible only once.

A crash between the server's acceptance and its record leaves the outcome unknown. So each step is recorded in the job's marks
before and after, for every recipient. Recipients who are known to have the message do not get it again.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from monolith.config import settings
from monolith.job_types.registry import Job, Permanent

PORTS = {"smtp": 587, "smtps": 465}
STEP_S = 10.0  # one command and its reply
DEADLINE_S = 50.0  # all commands: less than the job's timeout, so that a late reply is still recorded
MIN_DATA_S = 15.0  # with less time left, the message is not started
MAX_UNANSWERED = 2  # the message is sent once more to a recipient if the server's answer was lost
MAX_REPLY = 200  # characters of a server's reply that are kept


class SendFailed(Exception):
    """The message could not be sent this time; another attempt may succeed. The text is shown to the submitter."""


@dataclass(frozen=True)
class MailServer:
    """A mail server. `starttls` is `required`, `offered` (used if the server supports it) or `never`."""

    host: str
    port: int
    is_tls: bool
    starttls: str
    user: str | None
    password: str | None = field(repr=False)


def server() -> MailServer | None:
    """Returns the server of SMTP_URL; None if it is not set."""
    url = settings().smtp_url
    if url is None:
        return None
    parts = urlsplit(url)
    # Otherwise an attacker who strips STARTTLS from the server's reply would get the password in clear text.
    starttls = parse_qs(parts.query).get("starttls", ["required" if parts.username else "offered"])[-1]
    user, password = (unquote(one) if one is not None else None for one in (parts.username, parts.password))
    return MailServer(parts.hostname or "", parts.port or PORTS[parts.scheme], parts.scheme == "smtps", starttls, user, password)


def unavailable_reason() -> str | None:
    """Returns why nothing can be sent although SMTP_URL is set, or None."""
    return "SMTP_URL is set but MAIL_FROM is not. An admin must set it." if settings().smtp_url and not settings().mail_from else None


class DeliveryLog:
    """The known outcome for each recipient, stored in the job's marks.

    accepted: the server's reply by recipient, from all attempts of the job. unanswered: by recipient, how often the message was
    started, in all attempts, without a known outcome. refused: the server's reply by recipient, from this attempt only.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.accepted: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.unanswered = Counter[str]()
        for name, note in job.marks():
            self._apply(name, note)
        self.refused.clear()

    def write(self, name: str, recipients: list[str], reply: str = "", *, happened: bool = True) -> None:
        """Records a step in the job's marks; `name` is sending, accepted, not_accepted or refused."""
        note = f"{', '.join(recipients)}: {reply}"
        self._job.mark(name, note, happened=happened)
        self._apply(name, note)

    def _apply(self, name: str, note: str) -> None:
        addresses, _, reply = note.partition(": ")
        recipients = addresses.split(", ")
        if name == "sending":
            self.unanswered.update(recipients)
        elif name != "refused":
            self.unanswered.subtract(recipients)
        if name in ("accepted", "refused"):
            getattr(self, name).update(dict.fromkeys(recipients, reply))

    def pending(self, recipients: list[str]) -> list[str]:
        """Returns the recipients that have not got the message yet, as far as known, and may be sent it."""
        return [one for one in recipients if one not in self.accepted and self.unanswered[one] < MAX_UNANSWERED]

    def given_up(self) -> list[str]:
        """Returns the recipients that are not sent the message again, although it is unknown whether they have it."""
        return sorted(one for one, times in self.unanswered.items() if one not in self.accepted and times >= MAX_UNANSWERED)


def send(to: MailServer, sender: str, recipients: list[str], content: bytes, log: DeliveryLog) -> None:
    """Sends the message to the recipients that the server accepts, and records the outcome for each.

    Raises `SendFailed` if at least one recipient is deferred, `Permanent` if the server refuses the message.
    """
    give_up_at = time.monotonic() + DEADLINE_S
    with _connected(to) as smtp:
        code, reply = smtp.mail(sender, [f"size={len(content)}"] if smtp.has_extn("size") else [])
        if code != 250:
            raise _reply_error(code, reply)
        accepted, deferred = _offer_recipients(smtp, recipients, log)
        if accepted:
            _send_data(smtp, content, accepted, log, give_up_at)
        with suppress(OSError):  # the message is sent: a server that hangs up early changes nothing
            smtp.quit()
    if deferred:
        raise SendFailed(f"The mail server deferred {_listed(deferred)}" + (f"; sent to {', '.join(accepted)}." if accepted else "."))


@contextmanager
def _connected(to: MailServer) -> Iterator[smtplib.SMTP]:
    with _translated_errors(to):
        name = socket.gethostname()  # the default would query the name server
        if to.is_tls:
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(to.host, to.port, name, timeout=STEP_S, context=ssl.create_default_context())
        else:
            smtp = smtplib.SMTP(to.host, to.port, name, timeout=STEP_S)
        try:
            _start_tls(smtp, to)
            if to.user:
                smtp.login(to.user, to.password or "")
            smtp.ehlo_or_helo_if_needed()
            yield smtp
        finally:
            smtp.close()


@contextmanager
def _translated_errors(to: MailServer) -> Iterator[None]:
    """Turns SMTP errors into exceptions of a job. The reply to a login is never quoted."""
    fix = "An admin must fix SMTP_URL."
    try:
        yield
    except smtplib.SMTPAuthenticationError as error:
        if error.smtp_code < 500:
            raise SendFailed(f"The mail server cannot check the password right now ({error.smtp_code}).") from None
        raise Permanent(f"The mail server rejected the user and password ({error.smtp_code}). {fix}") from None
    except smtplib.SMTPResponseException as error:
        raise _reply_error(error.smtp_code, error.smtp_error) from None
    except smtplib.SMTPServerDisconnected:  # raised for a timeout too
        raise SendFailed(f"The mail server {to.host} closed the connection, or did not answer in time.") from None
    except (smtplib.SMTPException, UnicodeError):  # no AUTH, no supported mechanism, or a password that is not ASCII
        raise Permanent(f"The mail server offers no way to sign in with this user and password. {fix}") from None
    except ssl.SSLCertVerificationError as error:
        raise Permanent(f"The certificate of the mail server {to.host} is not valid: {error.verify_message}. {fix}") from None
    except OSError:
        raise SendFailed(f"The mail server {to.host}:{to.port} could not be reached.") from None


def _start_tls(smtp: smtplib.SMTP, to: MailServer) -> None:
    smtp.ehlo_or_helo_if_needed()
    if to.is_tls or to.starttls == "never":
        return
    if smtp.has_extn("starttls"):
        smtp.starttls(context=ssl.create_default_context())
    elif to.starttls == "required":
        raise Permanent("The mail server offers no STARTTLS. An admin must fix SMTP_URL, or add ?starttls=never to it.")


def _offer_recipients(smtp: smtplib.SMTP, recipients: list[str], log: DeliveryLog) -> tuple[list[str], dict[str, str]]:
    """The recipients that the server accepts, and its reply for those it defers. Raises `Permanent` if it refuses all."""
    accepted, deferred = [], {}
    for one in recipients:
        code, reply = smtp.rcpt(one)
        if code in (250, 251):
            accepted.append(one)
        elif code >= 500:
            log.write("refused", [one], _reply_text(code, reply))
        else:
            deferred[one] = _reply_text(code, reply)
    if not accepted and not deferred and not log.accepted:
        raise Permanent(f"The mail server rejected all recipients: {_listed(log.refused)}.")
    return accepted, deferred


def _send_data(smtp: smtplib.SMTP, content: bytes, recipients: list[str], log: DeliveryLog, give_up_at: float) -> None:
    """Sends the message between two marks. Nothing else happens in between, as a later attempt cannot tell a crash there."""
    left = give_up_at - time.monotonic()
    if left < MIN_DATA_S or smtp.sock is None:
        raise SendFailed("The mail server was so slow that no time was left for the message.")
    log.write("sending", recipients, happened=False)
    smtp.sock.settimeout(left)
    try:
        code, reply = smtp.data(content)
    except smtplib.SMTPDataError as error:  # before the message was started
        code, reply = error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else error.smtp_error.encode()
    log.write("accepted" if code == 250 else "not_accepted", recipients, _reply_text(code, reply))
    if code != 250:
        raise _reply_error(code, reply)


def _reply_error(code: int, reply: bytes | str) -> Exception:
    """`Permanent` for 5xx; `SendFailed` for 4xx (such as greylisting) and for codes that make no sense here."""
    if code >= 500:
        return Permanent(f"The mail server refused the message: {_reply_text(code, reply)}")
    return SendFailed(f"The mail server deferred the message: {_reply_text(code, reply)}")


def _reply_text(code: int, reply: bytes | str) -> str:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return f"{code} {' '.join(text.split())}"[:MAX_REPLY]


def _listed(replies: dict[str, str]) -> str:
    return "; ".join(f"{one} ({reply})" for one, reply in replies.items())
