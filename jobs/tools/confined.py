"""Run a project's commands in a sandbox: start it, read what it prints, hold its limits, and take what it hands out.

However this ends (a limit, a stopped job, an exception, a worker that is killed), the whole sandbox ends with it.
"""

from __future__ import annotations

import io
import json
import os
import select
import selectors
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from jobs.tools import sandbox
from jobs.tools.printed import readable
from jobs.tools.projects import Plan
from jobs.tools.sandbox import MEGABYTE
from jobs.tools.watch import Kill, Watch
from monolith.config import settings
from monolith.runner.registry import Job, Permanent

MAX_OUTPUT = 5 * MEGABYTE
MAX_RESULTS = 32 * MEGABYTE  # what a sandbox may hand out in all, tar and all
MAX_LOG = 64 * 1024  # characters of the output that stand in a result
LAST_OUTPUT = 2000
LOOK_S = 0.025
ENDING_S = 10
REPORT, LOG = "report.json", "log.txt"
KILLED = 128 + 9  # as shells say it


@dataclass
class Outcome:
    """What came of a run. `files` are what it made, by path: neither paths nor contents are to be trusted."""

    exit_code: int
    output: bytes
    killed: Kill | None
    usage: dict[str, float]
    files: dict[str, bytes] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def report(self, job: Job) -> dict[str, Any]:
        """What every result says. A log that is longer than a result may hold is attached as a file."""
        text = readable(self.output.decode(errors="replace"))
        last = text[-LAST_OUTPUT:]
        if len(text) > MAX_LOG:
            job.attach(LOG, text.encode(), "text/plain; charset=utf-8")
            text = f"[{len(text) - MAX_LOG:,} characters left out here; the whole is in {LOG}]\n{text[-MAX_LOG:]}"
        killed = self.killed and {
            "limit": self.killed.limit,
            "detail": self.killed.detail,
            "peak_memory_mb": self.usage["peak_memory_mb"],
            "last_output": last,
        }
        return {"exit_code": self.exit_code, "killed": killed, "log": text, "usage": self.usage}


def run(job: Job, folder: Path, plan: Plan, max_bytes: int, doing: str) -> Outcome:
    """Follow the plan for the project in `folder/given`, and take the files that it names, at most so many bytes.

    Raises `Permanent` where there is no sandbox, or the project does not fit into it.
    """
    if reason := sandbox.why_off():
        raise Permanent(reason)
    with _started(folder, plan, max_bytes) as running:
        while not running.is_over():
            job.progress(None, doing)
            running.go_on()
    return running.outcome()


@contextmanager
def _started(folder: Path, plan: Plan, max_bytes: int) -> Iterator[_Running]:
    with _pipe() as (info, told), _pipe() as (results, handed):
        order = sandbox.order(plan.steps, plan.collect, max_bytes, handed.fileno())
        process = subprocess.Popen(  # noqa: S603 - it starts bubblewrap
            sandbox.command(folder, order, told.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[told.fileno(), handed.fileno()],
            env={"RQ_JOB_ID": os.environ.get("RQ_JOB_ID", "")},  # by which a worker finds what an earlier run has left
        )
        told.close()
        handed.close()
        with process:
            first = None
            try:
                first = _first_process(info)
                yield _Running(process, first, results)
            finally:
                _end(process, first)


@contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as read, os.fdopen(writer, "wb", buffering=0) as write:
        yield read, write


@dataclass(frozen=True)
class _First:
    """The first process of a sandbox. Its descriptor stays true when the number is given to another process."""

    pid: int
    descriptor: int


def _first_process(info: IO[bytes]) -> _First | None:
    """What bubblewrap says of it; None when it could not start one."""
    said = b""
    while b"}" not in said and (chunk := info.read(4096)):
        said += chunk
    try:
        pid = int(json.loads(said)["child-pid"])
        return _First(pid, os.pidfd_open(pid))
    except (ValueError, ProcessLookupError):
        return None


def _end(process: subprocess.Popen[bytes], first: _First | None) -> None:
    """Kill the first process, with which the kernel ends all others, and wait until they are gone."""
    process.kill()  # the first one would die with it; that this is so is not relied on
    if first:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(first.descriptor, signal.SIGKILL)
        select.select([first.descriptor], [], [], ENDING_S)
        os.close(first.descriptor)


class _Running:
    """A sandbox that runs: its output and its results as they come, and its limits."""

    def __init__(self, process: subprocess.Popen[bytes], first: _First | None, results: IO[bytes]) -> None:
        self._process = process
        self._output, self._results = bytearray(), bytearray()
        self._watch = Watch(first.pid if first else 0)
        self._looked_at = 0.0
        self._kill: Kill | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(process.stdout or results, selectors.EVENT_READ, self._output)
        self._selector.register(results, selectors.EVENT_READ, self._results)

    def is_over(self) -> bool:
        return self._kill is not None or not self._selector.get_map()

    def go_on(self) -> None:
        """Read what has come, and look whether all is within limits."""
        for key, _ in self._selector.select(LOOK_S):
            chunk = os.read(key.fd, 65536)
            key.data.extend(chunk)
            if not chunk:
                self._selector.unregister(key.fileobj)
        if self._results and time.monotonic() - self._looked_at >= LOOK_S:  # its first sign: the project's own code begins
            self._looked_at = time.monotonic()
            self._kill = self._watch.look()
        if len(self._output) > MAX_OUTPUT:
            self._kill = Kill("output", f"It printed more than {MAX_OUTPUT // MEGABYTE} MB.")
        if len(self._results) > MAX_RESULTS:
            self._kill = Kill("artifacts", f"It handed out more than {MAX_RESULTS // MEGABYTE} MB.")

    def outcome(self) -> Outcome:
        """What came of it. Raises `Permanent` for a project that does not fit, RuntimeError for a sandbox that failed."""
        self._selector.close()
        output, usage = bytes(self._output[:MAX_OUTPUT]), self._watch.usage()
        if self._kill:
            return Outcome(KILLED, output, self._kill, usage)
        files = _unpacked(bytes(self._results[1:]))
        if REPORT not in files:
            raise RuntimeError(f"The sandbox ended without a report. It said: {readable(output[-LAST_OUTPUT:].decode(errors='replace'))}")
        report = json.loads(files.pop(REPORT))
        if trouble := report.get("trouble"):
            raise Permanent(f"The sandbox could not take the project: {trouble}. It has {settings().sandbox_disk_mb} MB of disk.")
        return Outcome(report["exit_code"], output, None, usage, files, report["left_out"])


def _unpacked(results: bytes) -> dict[str, bytes]:
    """The files of the tar by name, as far as it goes."""
    found: dict[str, bytes] = {}
    with suppress(tarfile.TarError, EOFError), tarfile.open(fileobj=io.BytesIO(results), mode="r:") as tar:
        for one in tar:
            content = tar.extractfile(one) if one.isreg() else None
            if content:
                found.setdefault(one.name, content.read())
    return found
