"""The servers that a host hands out: a Redis that speaks TLS alone, with a certificate that nobody has signed, and few connections."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from tests.support.processes import accepts, free_port, until

PASSWORD = "p%2Fss"  # as hosts make them: with what must be escaped in a URL


@dataclass(frozen=True)
class TlsRedis:
    """A server that runs. `url` is what a host puts into REDIS_URL: it says nothing of the certificate."""

    port: int
    certificate: Path

    @property
    def url(self) -> str:
        return f"rediss://:{PASSWORD}@127.0.0.1:{self.port}"

    def client(self) -> Redis:
        """One that checks the certificate, and so knows that it is this server's."""
        return Redis.from_url(f"{self.url}?ssl_ca_certs={self.certificate}&ssl_check_hostname=false")


@contextmanager
def tls_redis(folder: Path, connections: int) -> Iterator[TlsRedis]:
    """A redis-server as small plans have it, ended with the block."""
    certificate, key = folder / "redis.crt", folder / "redis.key"
    self_signed(certificate, key)
    server = TlsRedis(free_port(), certificate)
    options = {
        "tls-port": server.port,
        "port": 0,
        "bind": "127.0.0.1",
        "tls-cert-file": certificate,
        "tls-key-file": key,
        "tls-auth-clients": "no",
        "requirepass": PASSWORD.replace("%2F", "/"),
        "maxclients": connections,
        "save": "",
        "dir": folder,
        "loglevel": "warning",
    }
    with running("redis-server", *_words(options)):
        until(lambda: accepts(server.port))
        yield server


@contextmanager
def running(name: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server of that name, killed at the end of the block. Skips the test where it is not installed."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    with subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def self_signed(certificate: Path, key: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=redis.example.org"]
    command = ["openssl", "req", "-x509", *kind, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)


def _words(options: dict[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]
