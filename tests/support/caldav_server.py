"""A real CalDAV server on this machine (Radicale) with one user and one empty calendar."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests

from tests.support.processes import accepts, free_port, until

LOGIN = ("intray", "pa:ss@word")


@pytest.fixture(scope="module")
def radicale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty calendar, without user and password."""
    folder, port = tmp_path_factory.mktemp("radicale"), free_port()
    (folder / "users").write_text(":".join(LOGIN) + "\n")
    auth = ["--auth-type", "htpasswd", "--auth-htpasswd-filename", str(folder / "users"), "--auth-htpasswd-encryption", "plain"]
    options = ["--server-hosts", f"127.0.0.1:{port}", "--storage-filesystem-folder", str(folder / "data"), "--auth-delay", "0"]
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "radicale", "--config", "", *options, *auth]
        with subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as server:
            try:
                until(lambda: accepts(port), in_vain=lambda: server.poll() is not None, or_else=(folder / "log").read_text)
                url = f"http://127.0.0.1:{port}/intray/events/"
                assert requests.request("MKCALENDAR", url, auth=LOGIN, timeout=20).status_code == 201
                yield url
            finally:
                server.terminate()


def with_login(url: str, login: str = "intray:pa%3Ass%40word") -> str:
    return url.replace("http://", f"http://{login}@")
