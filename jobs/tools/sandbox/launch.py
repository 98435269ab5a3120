"""Open a sandbox and close it again; and find out whether one can be opened here at all."""

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

from ...tools.sandbox import bwrap_command, cgroup, seccomp_filter
from ...tools.sandbox.bwrap_command import SandboxSpec
from ...tools.sandbox.cgroup import Group, NoGroup
from ...tools.sandbox.workdir import workplace

ENDING_S = 10
MAX_SAID = 200  # characters of bubblewrap's own words


@dataclass(frozen=True)
class Opened:
    """An open sandbox: its first process as seen from here (0 if there is none), what it prints, and what it hands out."""

    pid: int
    output: IO[bytes]
    results: IO[bytes]
    group: Group | None


class NoSandbox(Exception):
    """No sandbox can be opened here; the message says why."""


def why_off() -> str | None:
    """Why no sandbox can be opened here, or None. Found out by running something in one."""
    try:
        _prove()
    except NoSandbox as reason:
        return str(reason)
    return None


@cache
def _prove() -> None:
    """Proven once for all; a failure may pass (a machine short of memory), and so is looked at again. Raises `NoSandbox`."""
    if sys.platform != "linux":
        raise NoSandbox("Projects run in a sandbox that is only available on Linux.")
    if reason := seccomp_filter.why_unknown():
        raise NoSandbox(reason)
    if shutil.which("bwrap") is None:
        raise NoSandbox("Projects run in a sandbox that needs bubblewrap, which is not installed (Debian: apt-get install bubblewrap).")
    with workplace() as folder:
        (folder / "given").mkdir()
        (folder / "given").chmod(0o755)
        if said := _probe(folder):
            raise NoSandbox(f"Projects run in a sandbox that needs bubblewrap 0.8, which does not work here: {said}. See docs/projects.md.")


def _probe(folder: Path) -> str | None:
    """What a sandbox said in which nothing could be run, or None."""
    try:
        with opened(folder, SandboxSpec(["true"])) as probe:
            said, results = probe.output.read(), probe.results.read()
    except NoGroup as error:
        return str(error)
    except OSError as error:
        return error.strerror or "it cannot be started"
    return None if b'"exit_code": 0' in results else " ".join(said.decode(errors="replace").split())[-MAX_SAID:] or "no output"


@contextmanager
def opened(folder: Path, order: SandboxSpec) -> Iterator[Opened]:
    """Open a sandbox for the project in `folder/given`. All that is in it has ended when this is left."""
    denied_path = folder / "denied"
    denied_path.write_bytes(seccomp_filter.denying_filter())
    with cgroup.group() as group, _pipe() as (info, told), _pipe() as (results, handed), denied_path.open("rb") as denied:
        descriptors = [told.fileno(), handed.fileno(), denied.fileno()]
        command = bwrap_command.command(folder, order, *descriptors)
        process = subprocess.Popen(  # noqa: S603 - it starts bubblewrap
            group.entering(command) if group else command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=descriptors,
            env={"RQ_JOB_ID": os.environ.get("RQ_JOB_ID", "")},  # by which a worker finds what an earlier run has left
        )
        told.close()
        handed.close()
        with process, _ending(process, info) as pid:
            yield Opened(pid, process.stdout or results, results, group)


@contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as read, os.fdopen(writer, "wb", buffering=0) as write:
        yield read, write


@contextmanager
def _ending(process: subprocess.Popen[bytes], info: IO[bytes]) -> Iterator[int]:
    """The first process of the sandbox; in the end it is killed, with which the kernel ends all others, and waited for."""
    first = None
    try:
        pid = _first_process(info)
        first = os.pidfd_open(pid) if pid else None  # stays true when the number is given to another process
        yield pid
    finally:
        process.kill()  # the first one dies with it; that this is so is not relied on
        if first is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(first, signal.SIGKILL)
            select.select([first], [], [], ENDING_S)
            os.close(first)


def _first_process(info: IO[bytes]) -> int:
    """Which process it is, as bubblewrap says; 0 when it could not start one."""
    said = b""
    while b"}" not in said and (chunk := info.read(4096)):
        said += chunk
    return int(json.loads(said)["child-pid"]) if said else 0
