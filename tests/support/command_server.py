"""Runs `manage.py` commands that set a test up, each in a fork of one process that has imported everything already.

A command takes 0.1 s here, and a second in a process of its own: nearly all of it is imports. What a test is about runs in its own.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parent.parent.parent
IMPORTED = (
    "alembic.command",
    "psycopg",
    "sqlalchemy.dialects.sqlite",
    "monolith.accounts.tokens",
    "monolith.accounts.users",
    "monolith.logs",
)
_lock = Lock()


@cache
def _server() -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.support.command_server"]
    server = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # it ends with its input
    return server


def run(words: tuple[str, ...], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command of this checkout's `manage.py` to its end."""
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as error:
        with _lock:
            server = _server()
            assert server.stdin and server.stdout
            try:
                server.stdin.write(json.dumps({"words": words, "env": env, "out": out.name, "error": error.name}) + "\n")
                server.stdin.flush()
                code = int(server.stdout.readline())
            except BaseException:  # pytest gave up on it: its answer would be taken for that of the next command
                server.kill()
                _server.cache_clear()
                raise
        return subprocess.CompletedProcess(words, code, out.read(), error.read())


def serve() -> None:
    """Run the commands that standard input names, one a line, until it ends."""
    import manage

    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            for number, name in enumerate((os.devnull, asked["out"], asked["error"])):
                os.dup2(os.open(name, os.O_RDWR), number)
            os.environ.clear()
            os.environ.update(asked["env"])
            manage.main(asked["words"])
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
