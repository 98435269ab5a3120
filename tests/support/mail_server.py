"""A real SMTP server on this machine (aiosmtpd) that does what a test tells it.

with MailServer() as server:
    server.will("451 try later", DROP)       # what it answers to messages, in turn; then it accepts
    server.recipients["b@example.org"] = "550 no such user"
    ...
    assert server.received[0].recipients == ["a@example.org"]
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.processes import free_port

DROP, HANG = "drop the connection in the middle of the message", "never answer"
ACCEPTED = "250 2.0.0 Ok: queued as 4F2A"
USER, PASSWORD = "intray", "pass:word@1"
Answer = str | Callable[[], str]


@dataclass(frozen=True)
class Received:
    sender: str
    recipients: list[str]
    message: EmailMessage


class _Conversation(SMTP):
    """Drops the connection when the message has begun, where it is told to."""

    async def smtp_DATA(self, arg: str) -> None:
        if self.event_handler.next_is(DROP):
            await self.push("354 go on")
            self.transport.abort()
            return
        await super().smtp_DATA(arg)


class MailServer:
    """`received` are the messages that came whole, accepted or not; `commands` the names of all hooks that ran."""

    def __init__(self, *, certificate: Path | None = None, is_tls: bool = False, needs_password: bool = False, **options: Any) -> None:
        self.received: list[Received] = []
        self.recipients: dict[str, str] = {}
        self.port = free_port()
        self._answers: list[Answer] = []
        context = _context(certificate) if certificate else None
        if needs_password:
            options |= {"authenticator": self._check, "auth_required": True, "auth_require_tls": bool(context) and not is_tls}
        if context and not is_tls:
            options |= {"tls_context": context, "require_starttls": True}
        self._controller = _Controller(self, "127.0.0.1", self.port, ssl_context=context if is_tls else None, **options)

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    def will(self, *answers: Answer) -> None:
        self._answers = list(answers)

    def next_is(self, answer: Answer) -> bool:
        if self._answers[:1] != [answer]:
            return False
        self._answers.pop(0)
        return True

    def _check(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (USER.encode(), PASSWORD.encode()), handled=False)

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]) -> str:
        answer = self.recipients.get(address, "250 OK")
        if answer == HANG:
            await asyncio.Event().wait()
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        message = message_from_bytes(envelope.content, policy=policy.default)
        self.received.append(Received(envelope.mail_from, list(envelope.rcpt_tos), message))
        answer = self._answers.pop(0) if self._answers else ACCEPTED
        if answer == HANG:
            await asyncio.Event().wait()
        return answer() if callable(answer) else answer

    def __enter__(self) -> MailServer:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()


class _Controller(Controller):
    def factory(self) -> SMTP:
        return _Conversation(self.handler, **self.SMTP_kwargs)


def _context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def new_certificate(folder: Path) -> Path:
    """A certificate of its own authority for this machine, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "certificate.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*plain))
    return file
