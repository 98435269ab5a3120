"""A formation of dynos: the processes that the Procfile names, each started by honcho alone, with the environment of such a host."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import requests

from bench.measuring import pss_mb, tree
from tests.support.processes import OURS, ROOT, free_port, until

PROCFILE = ROOT / "Procfile"
KILLED_AFTER_S = 30.0  # what a host gives a dyno between SIGTERM and SIGKILL


@dataclass
class Dyno:
    """One of them: `web.1`, `worker.2` ... with a disk of its own, which is thrown away with it."""

    name: str
    home: Path
    env: dict[str, str]
    honcho: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        kind = self.name.partition(".")[0]
        command = [str(Path(sys.executable).with_name("honcho")), "-f", str(PROCFILE), "-e", os.devnull, "start", kind]
        with self.log.open("ab") as log:
            self.honcho = subprocess.Popen(command, cwd=ROOT, env=self.env, stdout=log, stderr=log)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.env['PORT']}"

    @property
    def log(self) -> Path:
        return self.home.with_name(f"{self.name}.log")

    def pids(self) -> list[int]:
        """All its processes but honcho's, which stand for the host. The first is the one that all others come from."""
        return [pid for pid in tree(self.honcho.pid) if b"honcho" not in _line(pid)] if self.honcho else []

    def pss_mb(self) -> float:
        """The memory of its processes; pages that they share count once."""
        return sum(pss_mb(pid) for pid in self.pids()[:1])

    def send(self, number: signal.Signals) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


@dataclass
class Formation:
    """All dynos of an installation."""

    folder: Path
    settings: dict[str, str]
    dynos: list[Dyno] = field(default_factory=list)

    def release(self) -> subprocess.CompletedProcess[str]:
        """Run the line `release:` as a host does, in a dyno of its own, before a version starts."""
        line = re.findall(r"^release: (.+)$", PROCFILE.read_text(), re.MULTILINE)[0]
        return self.command(line)

    def command(self, line: str) -> subprocess.CompletedProcess[str]:
        """A line of shell in a dyno of its own, as `heroku run` does."""
        return subprocess.run(line, shell=True, cwd=ROOT, env=self.env("run.1"), capture_output=True, text=True, timeout=60)

    def scale(self, **numbers: int) -> None:
        """Start so many dynos of each kind."""
        for kind, number in numbers.items():
            for name in (f"{kind}.{place}" for place in range(1, number + 1)):
                self.dynos.append(Dyno(name, self.folder / name, self.env(name)))
                self.dynos[-1].start()

    def env(self, name: str) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "DYNO": name, "PORT": str(free_port()), "INTRAY_HOME": str(self.folder / name), "REQUEST_RATE": "0"}
        return {**inherited, **own, **self.settings}

    def named(self, kind: str) -> list[Dyno]:
        return [dyno for dyno in self.dynos if dyno.name.startswith(kind)]

    def wait_until_ready(self) -> None:
        until(lambda: all(_is_ready(web.url) for web in self.named("web")), 120, self.said)

    def restart(self) -> float:
        """SIGTERM to every process of every dyno; then all start again with empty disks. Seconds until the last had ended."""
        began_at = time.monotonic()
        ours = {pid for dyno in self.dynos for pid in dyno.pids()}
        for dyno in self.dynos:
            dyno.send(signal.SIGTERM)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ours), 2 * KILLED_AFTER_S, self.said)
        took = time.monotonic() - began_at
        for dyno in self.dynos:
            assert dyno.honcho
            dyno.honcho.wait(10)
            dyno.start()
        self.wait_until_ready()
        return took

    def end(self) -> None:
        for dyno in self.dynos:
            dyno.send(signal.SIGKILL)
        for dyno in self.dynos:
            if dyno.honcho:
                dyno.honcho.terminate()
                dyno.honcho.wait(20)

    def said(self) -> str:
        """The last words of all dynos."""
        return "\n".join(f"{dyno.name}: {dyno.log.read_text(errors='replace')[-1500:]}" for dyno in self.dynos)


def _line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it is gone already
        return b""


def _is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/ready", timeout=5).status_code == 200
    except requests.RequestException:
        return False
