"""The first process in a sandbox: it bars its own way out, runs the project's commands, and hands out what they made.

`sandbox.py` starts this file as a program, as process 1 of the sandbox: nothing in there can kill it, look into it or outlive it.
It imports the standard library only. Whoever reads what it hands out trusts neither names nor contents: the project made them.
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

SPACE = Path("/tmp")  # noqa: S108 - the sandbox's own: the one place that can be written to, of limited size
PROJECT = SPACE / "project"
GIVEN = Path("/given")
READY = b"\n"  # the first byte of the results: from here on the project's own code runs
UID = 1000  # who the project runs as, in its own user namespace
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
CLONE_NEWUSER = 0x10000000
LAST_CAPABILITY = 63
MAX_MADE = 100  # files that are handed out
NOISE = {"__pycache__", "node_modules", ".git", ".pytest_cache", ".ruff_cache"}  # folders
NOISY = {".o", ".d", ".pyc"}
Seen = dict[Path, tuple[int, int]]

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Run the steps of the order that stands in the arguments."""
    order = json.loads(sys.argv[1])
    if order["become"] is not None:
        _become(order.pop("become"), order)
    _bar()
    _limit(order["limits"])
    report: dict[str, Any] = {"exit_code": None, "fits": True, "is_full": False, "left_out": []}
    files: list[Path] = []
    try:
        before = _copy_project(order["links"])
    except OSError:
        shutil.rmtree(PROJECT, ignore_errors=True)  # a full disk would look like the project's doing
        report["fits"] = False
    os.write(order["results"], READY)
    if report["fits"]:
        report["exit_code"] = _run(order["steps"])
        _end_the_rest()
        report["is_full"] = os.statvfs(SPACE).f_bavail == 0
        files = _made(order["collect"], before, order["max_bytes"], report["left_out"])
    _hand_out(order["results"], report, files)


def _become(uid: int, order: dict[str, Any]) -> None:
    """Started by root: become a user that nothing else runs as, in a user namespace without any right, and begin again."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _call(_libc.prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)  # or its own /proc would be root's
    _call(_libc.unshare, CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("gid_map", f"{UID} {uid} 1"), ("uid_map", f"{UID} {uid} 1")):
        Path("/proc/self", name).write_text(text)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")  # of this namespace: none within it
    for capability in range(LAST_CAPABILITY):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    order["become"] = None
    os.execv(sys.executable, [sys.executable, "-I", "-S", sys.argv[0], json.dumps(order)])  # noqa: S606 - ends all capabilities


def _bar() -> None:
    """Die with the worker, be the first to go when memory is short, and let nobody in here look into this process."""
    _call(_libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    Path("/proc/self/oom_score_adj").write_text("1000")
    _call(_libc.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)


def _call(function: Any, *arguments: int) -> None:
    if function(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _limit(limits: dict[str, int]) -> None:
    """Limits of each process. Those of all together are held from outside: see `watch.py`."""
    for name in ("NPROC", "NOFILE", "FSIZE", "CPU", "CORE"):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limits[name], limits[name]))
    os.nice(10)  # what watches goes first
    os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})


def _copy_project(links: dict[str, str]) -> Seen:
    """Copy the project to where it may be changed; what there is then."""
    for name in ("home", "out"):
        (SPACE / name).mkdir()
    shutil.copytree(GIVEN, PROJECT)
    for name, target in links.items():
        (PROJECT / name).parent.mkdir(parents=True, exist_ok=True)
        (PROJECT / name).symlink_to(target)
    return {path: _looks(path) for path in PROJECT.rglob("*")}


def _looks(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_mtime_ns, found.st_size


def _run(steps: list[str]) -> int:
    """Run one command after the other in the project, until one fails; the last exit code."""
    os.chdir(PROJECT)
    code = 0
    for step in steps:
        os.write(1, f"$ {step}\n".encode())
        code = _wait_for(os.posix_spawn("/bin/sh", ["sh", "-c", step], os.environ))
        if code:
            break
    return code


def _wait_for(pid: int) -> int:
    """Wait for one process, and bury every orphan meanwhile, as process 1 must. An exit code as shells give it."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _end_the_rest() -> None:
    """Kill whatever the project has left running: what it made is read when nobody changes it any more."""
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _made(patterns: list[str], before: Seen, max_bytes: int, left_out: list[str]) -> list[Path]:
    """The regular files that match and are new or changed, as many as fit; the names of the others go into `left_out`."""
    found: list[Path] = []
    for path in sorted({path for pattern in patterns for path in SPACE.glob(pattern)}):
        if not stat.S_ISREG(path.lstat().st_mode) or before.get(path) == _looks(path) or _is_noise(path):
            continue
        if len(found) < MAX_MADE and path.lstat().st_size <= max_bytes:
            found.append(path)
            max_bytes -= path.lstat().st_size
        else:
            left_out.append(str(path.relative_to(SPACE))[:200])
    del left_out[MAX_MADE:]
    return found


def _is_noise(path: Path) -> bool:
    return path.suffix in NOISY or not NOISE.isdisjoint(path.parts)


def _hand_out(descriptor: int, report: dict[str, Any], files: list[Path]) -> None:
    """Write the report and the files as one tar into the pipe."""
    with os.fdopen(descriptor, "wb") as pipe, tarfile.open(fileobj=pipe, mode="w|") as tar:
        text = json.dumps(report).encode()
        head = tarfile.TarInfo("report.json")
        head.size = len(text)
        tar.addfile(head, io.BytesIO(text))
        for path in files:
            tar.add(path, str(path.relative_to(SPACE)), recursive=False)


if __name__ == "__main__":
    main()
