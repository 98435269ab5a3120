"""Fetching over TLS: the name is checked against the certificate although the connection is pinned to an address."""

from __future__ import annotations

import datetime
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests.adapters
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from monolith.config import settings
from monolith.content.fetch import FetchFailed, fetch


def _certificate(folder: Path) -> Path:
    """A certificate and its key in one file, for `localhost` alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "certificate.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*plain))
    return file


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of an HTTPS server whose certificate, for `localhost`, is trusted."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<p>Safe.</p>" if self.path == "/" else b"")
            if self.path == "/slow":
                over.wait(20)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    class Quiet(HTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that hangs up is what some of the tests are about."""

    over = threading.Event()
    file = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = Quiet(("127.0.0.1", 0), Page)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(file))
    monkeypatch.setenv("SECRET_KEY", "for tests")
    monkeypatch.setenv("FETCH_ALLOW_LOOPBACK", "1")
    settings.cache_clear()
    yield server.server_port
    settings.cache_clear()
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_page_is_fetched_from_the_name_its_certificate_is_for(port: int) -> None:
    assert fetch(f"https://localhost:{port}/").content == b"<p>Safe.</p>"


def test_another_name_than_the_certificates_is_refused(port: int) -> None:
    with pytest.raises(FetchFailed, match="securely"):
        fetch(f"https://127.0.0.1:{port}/")


def test_a_certificate_that_nobody_vouches_for_is_refused(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("SECRET_KEY", "for tests")
    monkeypatch.setenv("FETCH_ALLOW_LOOPBACK", "1")
    settings.cache_clear()
    with pytest.raises(FetchFailed, match="securely"):
        fetch(f"https://localhost:{port}/")


def test_a_slow_server_is_cut_off_through_tls_too(port: int) -> None:
    with pytest.raises(FetchFailed, match="longer than 0.5 s"):
        fetch(f"https://localhost:{port}/slow", within=0.5)
