"""The closed place in which the code of strangers runs: bubblewrap, or nothing.

Inside there is a read-only system, our Python with its packages, the project, and one writable place of limited size. There is no
network, no other process, no home, no socket and no environment of ours. Code runs as nobody else runs: an ordinary user's sandbox
in a user namespace of its own, root's as a user id that nothing else has. Root is never mapped into a user namespace: a
process that the kernel knows as root may write to /proc/sys there, whatever rights were taken from it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from monolith.config import ROOT, settings

from ...tools.sandbox import init_process

MEGABYTE = 1024 * 1024
MAX_TASKS = 256  # processes and threads
SHARED_MEMORY = 16 * MEGABYTE
FIRST_UID = 2_000_000_000  # user ids from here on belong to nobody
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
CONFIGURATION = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/mime.types")
PEOPLE = {
    "passwd": f"project:x:{init_process.UID}:{init_process.UID}::{init_process.SPACE}/home:/bin/sh\n",
    "group": f"project:x:{init_process.UID}:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
}
AS_ROOT = (
    *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
    *("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"),
)
AS_USER = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
    *("--uid", str(init_process.UID), "--gid", str(init_process.UID)),
)
ENVIRONMENT = {
    "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": f"{init_process.SPACE}/home",
    "TMPDIR": str(init_process.SPACE),
    "LANG": "C.UTF-8",
    "CI": "1",
    "NO_COLOR": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONPATH": f"{init_process.SPACE}/home/installed:{init_process.PROJECT}/src:{init_process.PROJECT}",
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
    """What the first process in a sandbox is to do: make the links, run the steps, and hand out the files that match the patterns in
    `collect`, at most so many bytes of them."""

    steps: list[str]
    collect: list[str] = field(default_factory=list)
    max_bytes: int = 0
    links: dict[str, str] = field(default_factory=dict)

    def written(self, results: int) -> str:
        """The order as `inside.py` reads it. `results`: the descriptor of the pipe for what it hands out."""
        limits = {
            "NPROC": MAX_TASKS + 32,  # the watch kills at MAX_TASKS and says so; this holds until it looks
            "NOFILE": 1024,
            "FSIZE": settings().sandbox_disk_mb * MEGABYTE,
            "CPU": settings().sandbox_seconds,
            "CORE": 0,
        }
        become = FIRST_UID + os.getpid() if os.geteuid() == 0 else None
        return json.dumps({**asdict(self), "become": become, "results": results, "limits": limits})


def command(folder: Path, order: SandboxSpec, info: int, results: int, denied: int) -> list[str]:
    """The command that starts a sandbox for the project in `folder/given`.

    Three descriptors: `info` is where bubblewrap says which process it is, `results` where what it made is handed out, and `denied`
    where bubblewrap reads the filter of system calls.
    """
    return [
        shutil.which("bwrap") or "bwrap",
        *(AS_ROOT if os.geteuid() == 0 else AS_USER),
        *("--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox", "--clearenv"),
        *(word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)),
        *("--perms", "1777", "--size", str(settings().sandbox_disk_mb * MEGABYTE), "--tmpfs", str(init_process.SPACE)),
        *_system(folder),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--size", str(SHARED_MEMORY), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108
        *("--ro-bind", str(folder / "given"), str(init_process.GIVEN)),
        *("--ro-bind", str(Path(init_process.__file__).resolve()), "/intray/inside.py"),
        *("--remount-ro", "/", "--chdir", "/"),
        *("--info-fd", str(info), "--seccomp", str(denied)),
        *("--", sys.executable, "-I", "-S", "/intray/inside.py", order.written(results)),
    ]


def _system(folder: Path) -> list[str]:
    """The read-only system: /usr and what belongs to it, our Python, and the few files that programs look for in /etc."""
    words = _folders([Path("/etc"), Path("/intray")])
    for path in SYSTEM:
        if Path(path).is_symlink():
            words += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).exists():
            words += ["--ro-bind", path, path]
    words += [word for path in CONFIGURATION for word in ("--ro-bind-try", path, path)]
    for name, text in PEOPLE.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
        words += ["--ro-bind", str(folder / name), f"/etc/{name}"]
    return words + _programs()


def _programs() -> list[str]:
    """/usr and our Python; what is ours and happens to lie within them is hidden again."""
    pythons = [Path(one) for one in (sys.prefix, sys.base_prefix)]
    shown = {Path("/usr"), *pythons, *(one.resolve() for one in pythons)}
    ours = {settings().home, settings().home.resolve(), ROOT}
    hidden = {one for one in ours if any(one.is_relative_to(place) for place in shown)}
    words: list[str] = []
    for path in sorted(shown | hidden):  # parents come first, so that each lies upon what is around it
        words += _folders(list(path.parents)[-2::-1])
        words += ["--ro-bind", str(path), str(path)] if path in shown else ["--tmpfs", str(path)]
    return words + [word for path in sorted(hidden) for word in ("--remount-ro", str(path))]


def _folders(paths: list[Path]) -> list[str]:
    """Folders that everybody may pass: bubblewrap makes those that it has to make by itself for their owner only."""
    return [word for path in paths for word in ("--perms", "0755", "--dir", str(path))]
