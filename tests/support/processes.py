"""Intray as people run it: real processes in a home of their own, on free ports, and the real servers they stand on.

`new_intray` makes one that a test starts itself. `intray` is one that runs, shared by the tests of a file: on SQLite with the
embedded Redis, and on PostgreSQL with a real one.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import command_server
from tests.support.command_server import MANAGE, ROOT, Forked

VENV_ONLY = str(Path(sys.executable).parent)  # a PATH without redis-server: the embedded one has to serve
OURS = (
    "DATABASE_URL",
    "REDIS_",
    "SECRET_KEY",
    "TRUSTED_",
    "PORT",
    "HOST",
    "LOG_",
    "OPENAI_",
    "RQ_",
    "WEB_",
    "WORKER_",
    "INTRAY_",
    "DYNO",
    "FETCH_",
)
STARTING_S = 60
PATIENCE = 3
ENDING_S = 40
ANNOUNCED = "Press Ctrl-C to stop."

Process = subprocess.Popen[bytes] | Forked
NewIntray = Callable[..., "Intray"]


@dataclass
class Intray:
    """One installation: a home, a port, the settings it runs with, and the code: this checkout's, or that of another version."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=lambda: free_port())
    run: Process | None = None
    spawned: list[Process] = field(default_factory=list)
    code: Path = ROOT
    forks: bool = True  # its processes are forks of one that has imported everything; else each imports for itself, as people's do

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        own = {"INTRAY_HOME": str(self.home), "PORT": str(self.port), "REQUEST_RATE": "0", "ANONYMOUS_RATE": "0"}
        return {**inherited, **own, **self.settings}

    def start(self) -> Intray:
        """Start `manage.py run` and wait until it is ready and has said so."""
        announced = self.output().count(ANNOUNCED)
        self.run = self.spawn("run")
        self.wait_until(lambda: self.output().count(ANNOUNCED) > announced)
        assert self.is_ready()
        return self

    def start_web(self) -> Intray:
        """Make the tables and start the web process alone; wait until it accepts connections."""
        self.checked("db", "upgrade")
        self.spawn("web")
        self.wait_until(lambda: accepts(self.port))
        return self

    def spawn(self, *words: str) -> Process:
        """Start one process, such as `run` or `worker`; what it prints is in `output()`."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.spawned.append(self._begin(words))
        return self.spawned[-1]

    def _begin(self, words: tuple[str, ...]) -> Process:
        if self.forks and self.code == ROOT:
            return Forked(MANAGE, *words, env=self.env, log=self.log)
        with self.log.open("ab") as log:
            command = [sys.executable, str(self.code / "manage.py"), *words]
            return subprocess.Popen(command, cwd=self.code, env=self.env, stdout=log, stderr=log)

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = [sys.executable, str(self.code / "manage.py"), *words]
        return subprocess.run(command, cwd=self.code, env=self.env, capture_output=True, text=True, timeout=60)

    def wait_until(self, is_so: Callable[[], bool], within: float = STARTING_S) -> None:
        until(is_so, within, lambda: f"it printed:\n{self.output()}", lambda: self.run is not None and self.run.poll() is not None)

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base_url}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def email(self) -> str:
        return self._printed("E-mail")

    @property
    def password(self) -> str:
        return self._printed("Password")

    def token(self, email: str | None = None) -> str:
        """A fresh API token of the admin, or of somebody else."""
        return self.checked("token", "create", "--email", email or self.email).split()[-1]

    def user(self, email: str, password: str = "a long password") -> str:
        """A new user who is no admin; their e-mail."""
        self.checked("user", "create", "--email", email, "--password", password)
        return email

    def checked(self, *words: str) -> str:
        """Run a command that sets a test up, and must succeed; what it printed."""
        done = command_server.run(words, self.env) if self.code == ROOT else self.manage(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end_all(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End the processes that `spawn(name)` has started, such as the workers of one test."""
        for process in [one for one in self.spawned if isinstance(one.args, list) and one.args[2:] == [name]]:
            process.send_signal(number)
            process.wait(ENDING_S)
            self.spawned.remove(process)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """End `manage.py run` as Ctrl-C does; its exit code."""
        assert self.run is not None
        if self.run.poll() is None:
            self.run.send_signal(number)
        return self.run.wait(ENDING_S)

    def processes(self) -> dict[int, str]:
        """Every living process of this home, by id, with its command line."""
        return {pid: line for pid, line, env in _living() if str(self.home) in line or f"INTRAY_HOME={self.home}\0" in env}

    def __enter__(self) -> Intray:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End everything, for the end of a test."""
        for process in self.spawned:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.spawned:
            try:
                process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self.processes():  # what a failed test has left
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def log(self) -> Path:
        return self.home.with_name(f"{self.home.name}.log")

    def _printed(self, label: str) -> str:
        found = re.search(rf"^{label}:\s+(\S+)$", self.output(), re.MULTILINE)
        assert found, f"no {label} in:\n{self.output()}"
        return found[1]


def _living() -> Iterator[tuple[int, str, str]]:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                line = ((path / "cmdline").read_bytes().rstrip(b"\0") + b" ").replace(b"\0", b" ").decode(errors="replace")
                yield int(path.name), line, (path / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue


def until(
    is_so: Callable[[], bool], within: float = 20, or_else: Callable[[], str] = lambda: "", in_vain: Callable[[], bool] = lambda: False
) -> None:
    """Ask again and again until it is so; fail when it is not within so many seconds, or at once when it is `in_vain`.

    The seconds are those of a machine with time to spare: a busy one, where other tests run too, gets PATIENCE times as many.
    """
    give_up_at = time.monotonic() + PATIENCE * within
    pause = 0.02
    while not is_so():
        if in_vain() or time.monotonic() > give_up_at:
            pytest.fail(f"not so within {within} s; {or_else()}")
        time.sleep(pause)
        pause = min(1.3 * pause, 0.25)  # asking costs the time that others need


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    command: list[str], is_up: Callable[[], bool], user: str | None = None, ended_by: signal.Signals = signal.SIGINT
) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, user=user, cwd="/")
        try:
            until(is_up, in_vain=lambda: process.poll() is not None, or_else=lambda: f"{command[0]} did not start")
            yield
        finally:
            process.send_signal(ended_by)  # SIGINT for PostgreSQL: at once, but cleanly
            process.wait(ENDING_S)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
