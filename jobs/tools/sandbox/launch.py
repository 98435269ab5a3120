"""Opens and closes a sandbox, and finds out whether this machine can open one."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from . import bwrap_command, seccomp_filter
from .bwrap_command import SandboxSpec
from .cgroup import Cgroup, CgroupUnavailable, new_cgroup
from .workdir import work_dir

ENDING_S = 10
MAX_ERROR = 200  # characters of bubblewrap's own message


@dataclass(frozen=True)
class OpenSandbox:
    """An open sandbox: the outer pid of its first process (0 if there is none), its output and the tar of its results."""

    pid: int
    output: IO[bytes]
    results: IO[bytes]
    cgroup: Cgroup | None


class SandboxUnavailable(Exception):
    """No sandbox can be opened here; the message says why."""


def unavailable_reason() -> str | None:
    """Returns why no sandbox can be opened here, or None. Runs a command in one to find out."""
    try:
        _check_available()
    except SandboxUnavailable as reason:
        return str(reason)
    return None


@cache
def _check_available() -> None:
    """Raises `SandboxUnavailable`. A success is cached; a failure is not, since it may be temporary (short of memory)."""
    if sys.platform != "linux":
        raise SandboxUnavailable("Projects run in a sandbox that is only available on Linux.")
    if reason := seccomp_filter.unsupported_reason():
        raise SandboxUnavailable(reason)
    if shutil.which("bwrap") is None:
        raise SandboxUnavailable(
            "Projects run in a sandbox that needs bubblewrap, which is not installed (Debian: apt-get install bubblewrap)."
        )
    with work_dir() as folder:
        (folder / "given").mkdir()
        (folder / "given").chmod(0o755)
        if error := _probe(folder):
            raise SandboxUnavailable(
                f"Projects run in a sandbox that needs bubblewrap 0.8, which does not work here: {error}. See docs/projects.md."
            )


def _probe(folder: Path) -> str | None:
    """The error of a sandbox that cannot run `true`, or None."""
    try:
        with open_sandbox(folder, SandboxSpec(["true"])) as probe:
            output, results = probe.output.read(), probe.results.read()
    except CgroupUnavailable as error:
        return str(error)
    except OSError as error:
        return error.strerror or "it cannot be started"
    return None if b'"exit_code": 0' in results else " ".join(output.decode(errors="replace").split())[-MAX_ERROR:] or "no output"


@contextmanager
def open_sandbox(folder: Path, spec: SandboxSpec) -> Iterator[OpenSandbox]:
    """Opens a sandbox for the project in `folder/given`. On exit, every process in it has ended."""
    filter_path = folder / "seccomp"
    filter_path.write_bytes(seccomp_filter.build_filter())
    with (
        new_cgroup() as cgroup,
        _pipe() as (info, info_writer),
        _pipe() as (results, results_writer),
        filter_path.open("rb") as seccomp,
    ):
        descriptors = [info_writer.fileno(), results_writer.fileno(), seccomp.fileno()]
        command = bwrap_command.command(folder, spec, *descriptors)
        process = subprocess.Popen(  # noqa: S603 - starts bubblewrap
            cgroup.wrap(command) if cgroup else command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=descriptors,
            env={"RQ_JOB_ID": os.environ.get("RQ_JOB_ID", "")},  # a worker finds processes left by an earlier run by it
        )
        info_writer.close()
        results_writer.close()
        with process, _killed_at_exit(process, info) as pid:
            yield OpenSandbox(pid, process.stdout or results, results, cgroup)


@contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as read, os.fdopen(writer, "wb", buffering=0) as write:
        yield read, write


@contextmanager
def _killed_at_exit(process: subprocess.Popen[bytes], info: IO[bytes]) -> Iterator[int]:
    """Yields the pid of the sandbox's first process; on exit kills it, and with it the kernel kills all others, and waits."""
    first = None
    try:
        pid = _first_process(info)
        first = os.pidfd_open(pid) if pid else None  # still names this process when its pid is reused
        yield pid
    finally:
        process.kill()  # the first process dies with it, but this does not rely on that
        if first is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(first, signal.SIGKILL)
            select.select([first], [], [], ENDING_S)
            os.close(first)


def _first_process(info: IO[bytes]) -> int:
    """The pid of the first process as bubblewrap reports it; 0 if bubblewrap started none."""
    text = b""
    while b"}" not in text and (chunk := info.read(4096)):
        text += chunk
    return int(json.loads(text)["child-pid"]) if text else 0
