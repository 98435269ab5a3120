"""Run a project's commands in a sandbox: start it, read what it prints, hold its limits, and take what it hands out.

The result of a project is its exit code, whatever that is; an exception is a failure of ours, or a project that cannot be run at all.
However this ends (a limit, a stopped job, an exception, a worker that is killed), the whole sandbox ends with it.
"""

from __future__ import annotations

import io
import json
import os
import selectors
import tarfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from monolith.config import settings
from monolith.job_types.registry import Job, Permanent

from ...tools.project.commands import Plan, Project
from ...tools.project.terminal_text import readable
from ...tools.sandbox import bwrap_command, launch, resource_limits
from ...tools.sandbox.bwrap_command import MEGABYTE
from ...tools.sandbox.cgroup import Group
from ...tools.sandbox.launch import Opened
from ...tools.sandbox.resource_limits import Kill, Watch

MAX_OUTPUT = 5 * MEGABYTE
MAX_RESULTS = 32 * MEGABYTE  # what a sandbox may hand out in all, tar and all
MAX_LOG = 64 * 1024  # characters of the output that stand in a result
LAST_OUTPUT = 2000
LOOK_S = 0.025
REPORT, LOG = "report.json", "log.txt"
KILLED = 128 + 9  # as shells say it


@dataclass
class SandboxResult:
    """What came of a run.

    `killed`: the limit that ended it; over a full disk the project may have ended by itself. `files` are what it made, by path:
    neither paths nor contents are to be trusted.
    """

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
            text = f"[{len(text) - MAX_LOG:,} characters left out; the full log is in {LOG}]\n{text[-MAX_LOG:]}"
        killed = self.killed and {
            "limit": self.killed.limit,
            "detail": self.killed.detail,
            "peak_memory_mb": self.usage["peak_memory_mb"],
            "last_output": last,
        }
        return {"exit_code": self.exit_code, "killed": killed, "log": text, "usage": self.usage}


def run(job: Job, project: Project, plan: Plan, max_bytes: int, doing: str) -> SandboxResult:
    """Follow the plan for the project, and take the files that it names, at most so many bytes.

    Raises `Permanent` where there is no sandbox, or the project does not fit into it.
    """
    if reason := launch.why_off():
        raise Permanent(reason)
    with launch.opened(project.folder, bwrap_command.SandboxSpec(plan.steps, plan.collect, max_bytes, project.links)) as opened:
        running = _Running(opened)
        while not running.is_over():
            job.progress(None, doing)
            running.go_on()
        running.ask(opened.group)
    return running.outcome()


class _Running:
    """A sandbox that runs: its output and its results as they come, and its limits."""

    def __init__(self, opened: Opened) -> None:
        self._output, self._results = bytearray(), bytearray()
        self._watch = Watch(opened.pid)
        self._looked_at = 0.0
        self._kill: Kill | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(opened.output, selectors.EVENT_READ, self._output)
        self._selector.register(opened.results, selectors.EVENT_READ, self._results)

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
            self._kill = Kill("artifacts", f"Its results are larger than {MAX_RESULTS // MEGABYTE} MB.")

    def ask(self, group: Group | None) -> None:
        """Ask the kernel, which ends a group of processes that is too large without a word."""
        if self._kill is None and group and group.was_too_large():
            self._kill = Kill("memory", resource_limits.GLUTTON.format(settings().sandbox_memory_mb))

    def outcome(self) -> SandboxResult:
        """What came of it. Raises `Permanent` for a project that does not fit, RuntimeError for a sandbox that failed."""
        self._selector.close()
        output, usage = bytes(self._output[:MAX_OUTPUT]), self._watch.usage()
        if self._kill:
            return SandboxResult(KILLED, output, self._kill, usage)
        files = _unpacked(bytes(self._results[1:]))
        if REPORT not in files:
            raise RuntimeError(
                f"The sandbox ended without a report. Its output: {readable(output[-LAST_OUTPUT:].decode(errors='replace'))}"
            )
        report = json.loads(files.pop(REPORT))
        if not report["fits"]:
            raise Permanent(
                f"The project does not fit into the sandbox, which has {settings().sandbox_disk_mb} MB of disk. Submit a smaller project."
            )
        kill = Kill("disk", resource_limits.FULL.format(settings().sandbox_disk_mb)) if report["is_full"] else None
        return SandboxResult(report["exit_code"], output, kill, usage, files, report["left_out"])


def _unpacked(results: bytes) -> dict[str, bytes]:
    """The files of the tar by name, as far as it goes."""
    found: dict[str, bytes] = {}
    with suppress(tarfile.TarError, EOFError), tarfile.open(fileobj=io.BytesIO(results), mode="r:") as tar:
        for one in tar:
            content = tar.extractfile(one) if one.isreg() else None
            if content:
                found.setdefault(one.name, content.read())
    return found
