"""Runs commands in a sandbox: reads the output, enforces the limits and reads the files that the sandbox returns.

Any exit code is a result; an exception means that Intray failed, or that the project cannot be run at all. However a run ends
(a limit, a stopped job, an exception, a killed worker), the whole sandbox ends with it.
"""

from __future__ import annotations

import io
import json
import os
import re
import selectors
import tarfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monolith.config import settings
from monolith.job_types.registry import Job, Permanent

from . import launch
from .bwrap_command import MEGABYTE, SandboxSpec
from .cgroup import Cgroup
from .launch import OpenSandbox
from .resource_limits import DISK_FULL, MEMORY_EXCEEDED, LimitExceeded, ResourceMonitor

MAX_OUTPUT = 5 * MEGABYTE
MAX_RESULTS = 32 * MEGABYTE  # the tar that a sandbox returns
MAX_LOG = 64 * 1024  # characters of output in a result
LAST_OUTPUT = 2000
MEASURE_EVERY_S = 0.025
REPORT, LOG = "report.json", "log.txt"
KILLED_EXIT_CODE = 128 + 9  # as shells report SIGKILL
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass
class SandboxResult:
    """The result of a run.

    killed: the limit that ended it, or the full disk on which the project ended by itself.
    files: the contents of the collected files by path. Neither is trusted: the project made them.
    left_out: the names of files that did not fit.
    """

    exit_code: int
    output: bytes
    killed: LimitExceeded | None
    usage: dict[str, float]
    files: dict[str, bytes] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def report(self, job: Job) -> dict[str, Any]:
        """Returns the fields of every result: `exit_code`, `killed`, `log` and `usage`. A long log is attached as the file LOG."""
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


def run(job: Job, folder: Path, spec: SandboxSpec, note: str) -> SandboxResult:
    """Runs the steps of the spec on the project in `folder/given`, and reports `note` as the job's progress.

    Raises `Permanent` if no sandbox can be opened here or the project does not fit into it.
    """
    if reason := launch.unavailable_reason():
        raise Permanent(reason)
    with launch.open_sandbox(folder, spec) as sandbox:
        running = _SandboxRun(sandbox)
        while not running.is_over():
            job.progress(None, note)
            running.step()
        running.check_cgroup(sandbox.cgroup)
    return running.result()


def readable(text: str) -> str:
    """Returns the text without terminal escapes, control characters and characters that the database cannot store."""
    return CONTROLS.sub("", ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


class _SandboxRun:
    """A running sandbox: collects its output and results, and checks its limits."""

    def __init__(self, sandbox: OpenSandbox) -> None:
        self._output, self._results = bytearray(), bytearray()
        self._monitor = ResourceMonitor(sandbox.pid)
        self._measured_at = 0.0
        self._exceeded: LimitExceeded | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(sandbox.output, selectors.EVENT_READ, self._output)
        self._selector.register(sandbox.results, selectors.EVENT_READ, self._results)

    def is_over(self) -> bool:
        return self._exceeded is not None or not self._selector.get_map()

    def step(self) -> None:
        """Reads the available output and checks the limits."""
        for key, _ in self._selector.select(MEASURE_EVERY_S):
            chunk = os.read(key.fd, 65536)
            key.data.extend(chunk)
            if not chunk:
                self._selector.unregister(key.fileobj)
        if self._results and time.monotonic() - self._measured_at >= MEASURE_EVERY_S:  # after the first byte the project's own code runs
            self._measured_at = time.monotonic()
            self._exceeded = self._monitor.measure()
        if len(self._output) > MAX_OUTPUT:
            self._exceeded = LimitExceeded("output", f"It printed more than {MAX_OUTPUT // MEGABYTE} MB.")
        if len(self._results) > MAX_RESULTS:
            self._exceeded = LimitExceeded("artifacts", f"Its results are larger than {MAX_RESULTS // MEGABYTE} MB.")

    def check_cgroup(self, cgroup: Cgroup | None) -> None:
        """Records the memory limit if the kernel's OOM killer ended the control group, which it does silently."""
        if self._exceeded is None and cgroup and cgroup.was_oom_killed():
            self._exceeded = LimitExceeded("memory", MEMORY_EXCEEDED.format(settings().sandbox_memory_mb))

    def result(self) -> SandboxResult:
        """Returns the result. Raises `Permanent` for a project that does not fit, RuntimeError for a sandbox that failed."""
        self._selector.close()
        output, usage = bytes(self._output[:MAX_OUTPUT]), self._monitor.usage()
        if self._exceeded:
            return SandboxResult(KILLED_EXIT_CODE, output, self._exceeded, usage)
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
        killed = LimitExceeded("disk", DISK_FULL.format(settings().sandbox_disk_mb)) if report["is_full"] else None
        return SandboxResult(report["exit_code"], output, killed, usage, files, report["left_out"])


def _unpacked(results: bytes) -> dict[str, bytes]:
    """The files of the tar by name, up to where it is damaged."""
    found: dict[str, bytes] = {}
    with suppress(tarfile.TarError, EOFError), tarfile.open(fileobj=io.BytesIO(results), mode="r:") as tar:
        for one in tar:
            content = tar.extractfile(one) if one.isreg() else None
            if content:
                found.setdefault(one.name, content.read())
    return found
