"""Hand a message to the mail server of `SMTP_URL`, and never twice as far as that can be.

A crash between the server's acceptance and its record leaves one question open; so what is about to be done is written down
before, and what came of it after, for each recipient, in the job's marks. Nobody gets a message again who is known to have it.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from monolith.config import settings
from monolith.errors import BadSetting
from monolith.job_types.registry import Job, Permanent

PORTS = {"smtp": 587, "smtps": 465}
STARTTLS = ("required", "offered", "never")
STEP_S = 10.0  # one command and its answer
DEADLINE_S = 50.0  # all of them: within the job's limit, so that an answer that comes late is still heard
LEAST_S = 15.0  # with less left, the message is not begun
MAX_REPLY = 200  # characters of a server's answer that are kept
EXAMPLE = "Write smtp://user:password@host:port or smtps://..., with special characters percent-encoded"


class SendFailed(Exception):
    """The message could not be handed over this time; another attempt may succeed. The message is fit for the submitter."""


@dataclass(frozen=True)
class Server:
    """The mail server. `starttls` is required, offered (used where the server has it) or never."""

    host: str
    port: int
    is_tls: bool
    starttls: str
    user: str | None
    password: str | None = field(repr=False)


def server() -> Server | None:
    """The server of `SMTP_URL`; None when it is not set. Raises `BadSetting`, without the password."""
    url = settings().smtp_url
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        host, port, options = parts.hostname, parts.port, parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise BadSetting(f"SMTP_URL is not the URL of a mail server. {EXAMPLE}.") from None
    # A password must not go out in the clear because somebody on the way took STARTTLS out of the server's offer.
    starttls = options.pop("starttls", ["required" if parts.username else "offered"])[-1]
    if parts.scheme not in PORTS or not host or starttls not in STARTTLS or options or parts.path not in ("", "/"):
        raise BadSetting(f"SMTP_URL is not the URL of a mail server. {EXAMPLE}; the only option is ?starttls={'|'.join(STARTTLS)}.")
    user, password = (unquote(one) if one is not None else None for one in (parts.username, parts.password))
    return Server(host, port or PORTS[parts.scheme], parts.scheme == "smtps", starttls, user, password)


def why_off() -> str | None:
    """Why nothing can be sent although a server is set, or None."""
    try:
        found = server()
    except BadSetting as error:
        return str(error)
    return "SMTP_URL is set but MAIL_FROM is not. An admin must set it." if found and not settings().mail_from else None


class Record:
    """What is known of each recipient. From all runs of the job: who is `accepted`, with the server's words, and whose message was
    begun without it being known what became of it (`unknown`). From this run: who is `refused`; another may ask for them again.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.accepted: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.unknown: set[str] = set()
        for name, note in job.marks():
            self._take(name, note)
        self.refused.clear()

    def write(self, name: str, recipients: list[str], reply: str = "", *, happened: bool = True) -> None:
        """`name`: sending, accepted, not_accepted or refused."""
        note = f"{', '.join(recipients)}: {reply}"
        self._job.mark(name, note, happened=happened)
        self._take(name, note)

    def _take(self, name: str, note: str) -> None:
        named, _, reply = note.partition(": ")
        recipients = named.split(", ")
        if name == "sending":
            self.unknown.update(recipients)
        else:
            self.unknown.difference_update(recipients)
        if name in ("accepted", "refused"):
            getattr(self, name).update(dict.fromkeys(recipients, reply))

    def open(self, recipients: list[str]) -> list[str]:
        """Those for whom there is something to do."""
        return [one for one in recipients if one not in self.accepted]


def send(to: Server, sender: str, recipients: list[str], content: bytes, record: Record) -> None:
    """Hand the message over for the recipients that the server takes, and write down what became of each.

    Raises `SendFailed` when at least one may get it another time, `Permanent` when the server refuses the message.
    """
    give_up_at = time.monotonic() + DEADLINE_S
    with _connected(to) as smtp:
        _mail_from(smtp, sender, len(content))
        taken, deferred = _recipients(smtp, recipients, record)
        if taken:
            _data(smtp, content, taken, record, give_up_at)
        with suppress(OSError):  # all is done: a server that hangs up early changes nothing
            smtp.quit()
    if deferred:
        raise SendFailed(f"The mail server deferred {_listed(deferred)}" + (f"; sent to {', '.join(taken)}." if taken else "."))


@contextmanager
def _connected(to: Server) -> Iterator[smtplib.SMTP]:
    with _plain_errors(to):
        smtp = _connect(to)
        try:
            _secure(smtp, to)
            if to.user:
                smtp.login(to.user, to.password or "")
            smtp.ehlo_or_helo_if_needed()
            yield smtp
        finally:
            smtp.close()


@contextmanager
def _plain_errors(to: Server) -> Iterator[None]:
    """What the server's answer means for the job. An answer to the password is never quoted."""
    mend = "An admin must fix SMTP_URL."
    try:
        yield
    except smtplib.SMTPAuthenticationError as error:
        if error.smtp_code < 500:
            raise SendFailed(f"The mail server cannot check the password right now ({error.smtp_code}).") from None
        raise Permanent(f"The mail server rejected the user and password ({error.smtp_code}). {mend}") from None
    except smtplib.SMTPResponseException as error:
        raise _judged(error.smtp_code, error.smtp_error) from None
    except smtplib.SMTPServerDisconnected:  # smtplib's word for a time-out too
        raise SendFailed(f"The mail server {to.host} closed the connection, or did not answer in time.") from None
    except (smtplib.SMTPException, UnicodeError):  # it knows no AUTH, or none that we know, or the password is not ASCII
        raise Permanent(f"The mail server offers no way to sign in with this user and password. {mend}") from None
    except ssl.SSLCertVerificationError as error:
        raise Permanent(f"The certificate of the mail server {to.host} is not valid: {error.verify_message}. {mend}") from None
    except OSError:
        raise SendFailed(f"The mail server {to.host}:{to.port} could not be reached.") from None


def _connect(to: Server) -> smtplib.SMTP:
    here = socket.gethostname()  # smtplib would ask the name server for more
    if to.is_tls:
        return smtplib.SMTP_SSL(to.host, to.port, here, timeout=STEP_S, context=ssl.create_default_context())
    return smtplib.SMTP(to.host, to.port, here, timeout=STEP_S)


def _secure(smtp: smtplib.SMTP, to: Server) -> None:
    smtp.ehlo_or_helo_if_needed()
    if to.is_tls or to.starttls == "never":
        return
    if smtp.has_extn("starttls"):
        smtp.starttls(context=ssl.create_default_context())
    elif to.starttls == "required":
        raise Permanent("The mail server offers no STARTTLS. An admin must fix SMTP_URL, or add ?starttls=never to it.")


def _mail_from(smtp: smtplib.SMTP, sender: str, size: int) -> None:
    code, reply = smtp.mail(sender, [f"size={size}"] if smtp.has_extn("size") else [])
    if code != 250:
        raise _judged(code, reply)


def _recipients(smtp: smtplib.SMTP, recipients: list[str], record: Record) -> tuple[list[str], dict[str, str]]:
    """Those whom the server takes, and those whom it puts off, with its words. Raises `Permanent` when none is left."""
    taken, deferred = [], {}
    for one in recipients:
        code, reply = smtp.rcpt(one)
        if code in (250, 251):
            taken.append(one)
        elif code >= 500:
            record.write("refused", [one], _words(code, reply))
        else:
            deferred[one] = _words(code, reply)
    if not taken and not deferred and not record.accepted:
        raise Permanent(f"The mail server rejected all recipients: {_listed(record.refused)}.")
    return taken, deferred


def _data(smtp: smtplib.SMTP, content: bytes, taken: list[str], record: Record, give_up_at: float) -> None:
    """From the first mark to the second nothing may come between: what happens there is what a later run cannot know."""
    left = give_up_at - time.monotonic()
    if left < LEAST_S or smtp.sock is None:
        raise SendFailed("The mail server was so slow that no time was left for the message.")
    record.write("sending", taken, happened=False)
    smtp.sock.settimeout(left)
    try:
        code, reply = smtp.data(content)
    except smtplib.SMTPDataError as error:  # before the message began
        code, reply = error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else error.smtp_error.encode()
    record.write("accepted" if code == 250 else "not_accepted", taken, _words(code, reply))
    if code != 250:
        raise _judged(code, reply)


def _judged(code: int, reply: bytes | str) -> Exception:
    """4xx may go better another time (a greylist, a full disk), 5xx will not. Below 400 it talks nonsense."""
    if code >= 500:
        return Permanent(f"The mail server refused the message: {_words(code, reply)}")
    return SendFailed(f"The mail server deferred the message: {_words(code, reply)}")


def _words(code: int, reply: bytes | str) -> str:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return f"{code} {' '.join(text.split())}"[:MAX_REPLY]


def _listed(replies: dict[str, str]) -> str:
    return "; ".join(f"{one} ({reply})" for one, reply in replies.items())
