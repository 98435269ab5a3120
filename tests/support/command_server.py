"""Runs `manage.py` commands, each in a fork of one process that has imported everything already.

Nearly all the time of a start is imports: a command that sets a test up takes 0.1 s here, and a second in an interpreter of its own;
`run` with its processes 2 s, not 7. The tests of test_run.py start interpreters, as people do.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent.parent
MANAGE = str(ROOT / "manage.py")
RQ = str(Path(sys.executable).with_name("rq"))
IMPORTED = (
    "alembic.command",
    "psycopg",
    "sqlalchemy.dialects.sqlite",
    "monolith.accounts.tokens",
    "monolith.accounts.users",
    "monolith.logs",
)
IMPORTED_BY_RQ = ("rq.cli.workers", "logging.config", "monolith.runner.prefork.worker")
LATE = ("logging.config", "rq.cli.workers", "openai.resources.chat.completions")
WALKED = ("monolith", "jobs.tools")
SPACE = 16 * 1024  # for the command line and the environment that /proc shows of a fork
ARGUMENTS, ENVIRONMENT = 45, 47  # where /proc/PID/stat says from where to where they are, after the name
POLL_S = 0.02
_lock = threading.Lock()


@cache
def _server(program: str) -> subprocess.Popen[str]:
    """The process whose forks run this program. That of `rq` is small, which makes forks fast: RQ forks for each job."""
    words = [sys.executable, "-m", "tests.support.command_server", program, " " * 1000]
    env = {**os.environ, "SPACE": " " * SPACE}
    server = subprocess.Popen(words, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # it ends with its input
    return server


def _ask(program: str, **question: Any) -> Any:
    with _lock:
        server = _server(program)
        assert server.stdin and server.stdout
        try:
            server.stdin.write(json.dumps(question) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())
        except BaseException:  # pytest gave up on it: its answer would be taken for that of the next command
            server.kill()
            _server.cache_clear()
            raise


def run(words: tuple[str, ...], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command of this checkout's `manage.py` to its end."""
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as error:
        code = _ask(MANAGE, run=[MANAGE, *words], env=env, out=out.name, error=error.name)
        return subprocess.CompletedProcess(words, code, out.read(), error.read())


class Forked:
    """A process that goes on, used like a `subprocess.Popen`: `manage.py` or `rq` with these words, which writes to this log.

    /proc shows the command line and the environment of a process of its own.
    """

    def __init__(self, program: str, *words: str, env: dict[str, str], log: Path, new_session: bool = False) -> None:
        self.args = [sys.executable, program, *words]
        self.returncode: int | None = None
        log.touch()
        self.pid: int = _ask(program, start=[program, *words], env=env, out=str(log), error=str(log), new_session=new_session)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask(self.args[1], poll=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        give_up_at = time.monotonic() + (timeout or float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() > give_up_at:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# ---- the server


def serve(program: str) -> None:
    """Answer the questions that standard input asks, one a line, until it ends."""
    for name in IMPORTED if program == MANAGE else IMPORTED_BY_RQ:
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        if "poll" in asked:
            answer = _exit_code(asked["poll"], os.WNOHANG)
        elif "start" in asked:
            if program == MANAGE:
                _import_all()
            answer = os.fork() or _become(asked["start"], asked)
        else:
            answer = _exit_code(os.fork() or _become(asked["run"], asked), 0)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


def _exit_code(pid: int, options: int) -> int | None:
    try:
        ended, status = os.waitpid(pid, options)
    except ChildProcessError:  # the child of a server that pytest gave up on
        return -signal.SIGKILL
    return os.waitstatus_to_exitcode(status) if ended else None


@cache
def _import_all() -> None:
    """Import what `run` and its processes need. No job types: they read settings."""
    for name in WALKED:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if "migrations" not in module.name:
                importlib.import_module(module.name)
    for name in (*LATE, *_preloaded()):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _preloaded() -> tuple[str, ...]:
    from monolith.runner.worker import ledger_worker

    return ledger_worker.PRELOADED


def _become(words: list[str], asked: dict[str, Any]) -> NoReturn:
    """In the fork: be a new process with these words and this environment."""
    if asked.get("new_session"):
        os.setsid()
    for number, name in enumerate((os.devnull, asked["out"], asked["error"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_APPEND), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests themselves run in the background of a shell
    env: dict[str, str] = asked["env"]
    os.environ.clear()
    os.environ.update(env)
    _show(ARGUMENTS, [sys.executable, *words])
    _show(ENVIRONMENT, [f"{name}={value}" for name, value in env.items()])
    sys.argv[:] = words
    sys.path[0:1] = [str(ROOT), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    code: Any = 1
    try:
        program = importlib.import_module("manage" if words[0] == MANAGE else "rq.cli")
        program.main(words[1:], prog_name=Path(words[0]).name)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    os._exit(code or 0)  # an interpreter that ends touches all that was imported, and so copies the memory it shares


def _show(field: int, words: list[str]) -> None:
    """Have /proc show these words, in the memory that it reads."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[field : field + 2])
    text = os.fsencode("\0".join(words))[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    serve(sys.argv[1])
