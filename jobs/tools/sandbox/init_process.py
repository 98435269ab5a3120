"""Process 1 of a sandbox: drops its privileges, runs the project's commands, and returns the files they made.

`bwrap_command.py` starts this file as a program. Nothing in the sandbox can kill, trace or outlive it. It imports the standard
library only. Readers of its results must trust neither names nor contents: the project made them.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import random
import resource
import shutil
import signal
import stat
import sys
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

WORKSPACE = Path("/tmp")  # noqa: S108 - the sandbox's own: its only writable directory, of limited size
PROJECT = WORKSPACE / "project"
GIVEN = Path("/given")
READY = b"\n"  # the first byte of the results: the project's own code starts
UID = 1000  # of the project, in its own user namespace
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
CLONE_NEWUSER = 0x10000000
LAST_CAPABILITY = 63
MAX_COLLECTED = 100  # files
CACHE_FOLDERS = {"__pycache__", "node_modules", ".git", ".pytest_cache", ".ruff_cache"}
BUILD_SUFFIXES = {".o", ".d", ".pyc"}
FileStats = dict[Path, tuple[int, int]]

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Runs the `SandboxSpec` that is given as JSON in the first argument."""
    spec = json.loads(sys.argv[1])
    if spec["run_as_uid"] is not None:
        _switch_user(spec.pop("run_as_uid"), spec)
    # Die with the worker, be the first to go when memory is short, and let no process in here trace this one.
    _call(_libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    Path("/proc/self/oom_score_adj").write_text("1000")
    _call(_libc.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)
    _set_limits(spec["limits"])
    report: dict[str, Any] = {"exit_code": None, "fits": True, "is_full": False, "left_out": []}
    files: list[Path] = []
    try:
        before = _copy_project(spec["links"])
    except OSError:
        shutil.rmtree(PROJECT, ignore_errors=True)  # a full disk would look like the project's fault
        report["fits"] = False
    os.write(spec["results"], READY)
    if report["fits"]:
        report["exit_code"] = _run(spec["steps"])
        _kill_all()
        report["is_full"] = os.statvfs(WORKSPACE).f_bavail == 0
        files = _collect(spec["collect"], before, spec["max_bytes"], report["left_out"])
    _write_results(spec["results"], report, files)


def _switch_user(uid: int, spec: dict[str, Any]) -> None:
    """If root started this: switches to an unused user id in a new user namespace without capabilities, and starts over."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _call(_libc.prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)  # otherwise /proc/self would belong to root
    _call(_libc.unshare, CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("gid_map", f"{UID} {uid} 1"), ("uid_map", f"{UID} {uid} 1")):
        Path("/proc/self", name).write_text(text)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")  # no nested user namespaces
    for capability in range(LAST_CAPABILITY):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    spec["run_as_uid"] = None
    os.execv(sys.executable, [sys.executable, "-I", "-S", sys.argv[0], json.dumps(spec)])  # noqa: S606 - exec drops all capabilities


def _call(function: Any, *arguments: int) -> None:
    if function(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _set_limits(limits: dict[str, int]) -> None:
    """Sets the limits of each process. `resource_limits.py` enforces those of all processes together from outside."""
    for name in ("NPROC", "NOFILE", "FSIZE", "CPU", "CORE"):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limits[name], limits[name]))
    os.nice(10)  # the worker that measures goes first
    os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})


def _copy_project(links: dict[str, str]) -> FileStats:
    """Copies the project into the workspace and returns the stat of each file."""
    for name in ("home", "out"):
        (WORKSPACE / name).mkdir()
    shutil.copytree(GIVEN, PROJECT)
    for name, target in links.items():
        (PROJECT / name).parent.mkdir(parents=True, exist_ok=True)
        (PROJECT / name).symlink_to(target)
    return {path: _file_stat(path) for path in PROJECT.rglob("*")}


def _file_stat(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_mtime_ns, found.st_size


def _run(steps: list[str]) -> int:
    """Runs the commands in the project until one fails; returns the last exit code."""
    os.chdir(PROJECT)
    code = 0
    for step in steps:
        os.write(1, f"$ {step}\n".encode())
        code = _wait_for(os.posix_spawn("/bin/sh", ["sh", "-c", step], os.environ))
        if code:
            break
    return code


def _wait_for(pid: int) -> int:
    """Waits for one process and reaps every orphan meanwhile, as process 1 must. Returns the exit code as shells report it."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _kill_all() -> None:
    """Kills every other process, so that nothing changes the files while they are read."""
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _collect(patterns: list[str], before: FileStats, max_bytes: int, left_out: list[str]) -> list[Path]:
    """Returns the matching regular files that are new or changed, as many as fit; adds the names of the others to `left_out`."""
    found: list[Path] = []
    for path in sorted({path for pattern in patterns for path in WORKSPACE.glob(pattern)}):
        is_cache = path.suffix in BUILD_SUFFIXES or not CACHE_FOLDERS.isdisjoint(path.parts)
        if not stat.S_ISREG(path.lstat().st_mode) or before.get(path) == _file_stat(path) or is_cache:
            continue
        if len(found) < MAX_COLLECTED and path.lstat().st_size <= max_bytes:
            found.append(path)
            max_bytes -= path.lstat().st_size
        else:
            left_out.append(str(path.relative_to(WORKSPACE))[:200])
    del left_out[MAX_COLLECTED:]
    return found


def _write_results(descriptor: int, report: dict[str, Any], files: list[Path]) -> None:
    """Writes the report and the files as one tar into the pipe."""
    with os.fdopen(descriptor, "wb") as pipe, tarfile.open(fileobj=pipe, mode="w|") as tar:
        text = json.dumps(report).encode()
        head = tarfile.TarInfo("report.json")
        head.size = len(text)
        tar.addfile(head, io.BytesIO(text))
        for path in files:
            tar.add(path, str(path.relative_to(WORKSPACE)), recursive=False)


if __name__ == "__main__":
    main()
