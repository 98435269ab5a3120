"""Loopback addresses may be fetched, and a server that treats a connection as a test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from monolith.config import settings


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SECRET_KEY", "for tests")
    monkeypatch.setenv("FETCH_ALLOW_LOOPBACK", "1")
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def raw() -> Iterator[Callable[[Callable[[socket.socket, threading.Event], None]], str]]:
    """Start a server that treats one connection as it is told; gives its URL."""
    over, threads, listening = threading.Event(), [], socket.create_server(("127.0.0.1", 0))

    def start(treat: Callable[[socket.socket, threading.Event], None]) -> str:
        def serve() -> None:
            connection, _ = listening.accept()
            connection.settimeout(10)  # who neither reads nor hangs up is waited for no longer
            with connection:
                try:
                    connection.recv(65536)
                    treat(connection, over)
                except OSError:
                    return  # it hung up, as it should

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}/"

    yield start
    over.set()
    for thread in threads:
        thread.join()
    listening.close()
