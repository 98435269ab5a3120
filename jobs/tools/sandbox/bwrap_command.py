"""Builds the bubblewrap command line of a sandbox for untrusted code.

Inside are a read-only system, Intray's Python with its packages, the project, and one writable directory of limited size. There is
no network, and no process, home, socket or environment of Intray's. A worker that runs as an ordinary user gives the sandbox a user
namespace of its own; one that runs as root gives it a user id that nothing else has. Root is never mapped into a user namespace,
because a process that the kernel knows as root may write to /proc/sys there, whatever capabilities it has lost.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from monolith.config import ROOT, settings

from . import init_process

MEGABYTE = 1024 * 1024
MAX_TASKS = 256  # processes and threads
SHARED_MEMORY = 16 * MEGABYTE
SPARE_TASKS = 32  # above MAX_TASKS, which resource_limits.py enforces with a message
FIRST_UID = 2_000_000_000  # user ids from here on belong to nobody
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
ETC_PATHS = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/mime.types")
ETC_FILES = {
    "passwd": f"project:x:{init_process.UID}:{init_process.UID}::{init_process.WORKSPACE}/home:/bin/sh\n",
    "group": f"project:x:{init_process.UID}:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
}
FLAGS_AS_ROOT = (
    *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
    *("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"),
)
FLAGS_AS_USER = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
    *("--uid", str(init_process.UID), "--gid", str(init_process.UID)),
)
ENVIRONMENT = {
    "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": f"{init_process.WORKSPACE}/home",
    "TMPDIR": str(init_process.WORKSPACE),
    "LANG": "C.UTF-8",
    "CI": "1",
    "NO_COLOR": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONPATH": f"{init_process.WORKSPACE}/home/installed:{init_process.PROJECT}/src:{init_process.PROJECT}",
    "PIP_NO_INDEX": "1",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "npm_config_offline": "true",
    "npm_config_audit": "false",
    "npm_config_fund": "false",
    "npm_config_update_notifier": "false",
}


@dataclass(frozen=True)
class SandboxSpec:
    """What a sandbox does: makes the links (path to target), runs the steps (shell commands), and returns the files that match the
    patterns in `collect`, relative to the workspace, up to `max_bytes` in total."""

    steps: list[str]
    collect: list[str] = field(default_factory=list)
    max_bytes: int = 0
    links: dict[str, str] = field(default_factory=dict)

    def to_json(self, results: int) -> str:
        """Returns the spec as `init_process.py` reads it. `results`: the descriptor that it writes its results to."""
        limits = {
            "NPROC": MAX_TASKS + SPARE_TASKS,  # effective until the next measurement
            "NOFILE": 1024,
            "FSIZE": settings().sandbox_disk_mb * MEGABYTE,
            "CPU": settings().sandbox_seconds,
            "CORE": 0,
        }
        run_as_uid = FIRST_UID + os.getpid() if os.geteuid() == 0 else None
        return json.dumps({**asdict(self), "run_as_uid": run_as_uid, "results": results, "limits": limits})


def command(folder: Path, spec: SandboxSpec, info: int, results: int, seccomp: int) -> list[str]:
    """Returns the command that starts a sandbox for the project in `folder/given`.

    info, results, seccomp: the descriptors to which bubblewrap writes the pid of the first process, to which that process writes
    its results, and from which bubblewrap reads the system call filter.
    """
    return [
        shutil.which("bwrap") or "bwrap",
        *(FLAGS_AS_ROOT if os.geteuid() == 0 else FLAGS_AS_USER),
        *("--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox", "--clearenv"),
        *(word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)),
        *("--perms", "1777", "--size", str(settings().sandbox_disk_mb * MEGABYTE), "--tmpfs", str(init_process.WORKSPACE)),
        *_system_mounts(folder),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--size", str(SHARED_MEMORY), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108
        *("--ro-bind", str(folder / "given"), str(init_process.GIVEN)),
        *("--ro-bind", str(Path(init_process.__file__).resolve()), "/intray/init_process.py"),
        *("--remount-ro", "/", "--chdir", "/"),
        *("--info-fd", str(info), "--seccomp", str(seccomp)),
        *("--", sys.executable, "-I", "-S", "/intray/init_process.py", spec.to_json(results)),
    ]


def _system_mounts(folder: Path) -> list[str]:
    """Mounts of the read-only system: /usr and its links, Intray's Python, and the few files of /etc that programs need."""
    words = _make_folders([Path("/etc"), Path("/intray")])
    for path in SYSTEM:
        if Path(path).is_symlink():
            words += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).exists():
            words += ["--ro-bind", path, path]
    words += [word for path in ETC_PATHS for word in ("--ro-bind-try", path, path)]
    for name, text in ETC_FILES.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
        words += ["--ro-bind", str(folder / name), f"/etc/{name}"]
    return words + _program_mounts()


def _program_mounts() -> list[str]:
    """Mounts of /usr and Intray's Python. Intray's own code and data are hidden where they lie within them."""
    pythons = [Path(one) for one in (sys.prefix, sys.base_prefix)]
    shown = {Path("/usr"), *pythons, *(one.resolve() for one in pythons)}
    hidden_paths = {settings().home, settings().home.resolve(), ROOT}
    hidden = {one for one in hidden_paths if any(one.is_relative_to(place) for place in shown)}
    words: list[str] = []
    for path in sorted(shown | hidden):  # parents first: later mounts go on top
        words += _make_folders(list(path.parents)[-2::-1])
        words += ["--ro-bind", str(path), str(path)] if path in shown else ["--tmpfs", str(path)]
    return words + [word for path in sorted(hidden) for word in ("--remount-ro", str(path))]


def _make_folders(paths: list[Path]) -> list[str]:
    """Folders that everybody may enter: the parents that bubblewrap creates by itself are for their owner only."""
    return [word for path in paths for word in ("--perms", "0755", "--dir", str(path))]
