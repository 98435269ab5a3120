"""The Dockerfile without Docker: each stage is an overlay over a Debian root, each RUN a chroot into it.

`.venv/bin/python -m tests.support.hosts.image` makes the root by debootstrap, as debian:bookworm-slim is made, runs every step for real,
then the image's own command and health check, and says how large it is; as root, with `apt-get install debootstrap`, in some minutes. The
test of the suite has this machine's root instead, and leaves out the steps that only download.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import ROOT, free_port, until

BASE = "debian:bookworm-slim"
MACHINE = {"PIP_CERT": "/authorities/ca-certificates.crt"}  # those that this machine trusts: it may reach PyPI by a proxy of its own
APT, PIP = "apt-get ", "python3 -m venv "  # how the steps begin that download
# $1 lower, $2 upper, $3 work, $4 the mounted root, $5 what to bind into it, $6 user, $7 folder; then environment and command
ENTER = """
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"
mount -t proc proc "$4/proc"; mount --rbind /dev "$4/dev"; root=$4 user=$6 folder=$7
echo "$5" | while read -r source target; do test -z "$source" || { mkdir -p "$root$target"; mount --bind "$source" "$root$target"; }; done
shift 7
exec chroot --userspec="$user" "$root" /usr/bin/env -i -C "$folder" "$@"
"""


@dataclass
class Stage:
    """What the steps since one FROM have made."""

    base: Path
    folder: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
    binds: dict[str, str] = field(default_factory=dict)  # folders of this machine, by where they are in the image
    user: str = "root"
    workdir: str = "/"
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("upper", "work", "merged"):
            (self.folder / name).mkdir(parents=True)

    @property
    def upper(self) -> Path:
        return self.folder / "upper"

    def words(self, command: list[str], **env: str) -> list[str]:
        """What runs the command in this stage, as its user, in its folder and with nothing but its environment."""
        places = [str(self.base), *(str(self.folder / name) for name in ("upper", "work", "merged"))]
        binds = "\n".join(f"{source} {target}" for target, source in self.binds.items())
        given = [f"{name}={value}" for name, value in {**self.env, **env}.items()]
        return [
            "unshare",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-euc",
            ENTER,
            "sh",
            *places,
            binds,
            self.user,
            self.workdir,
            *given,
            *command,
        ]

    def run(self, command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.words(command, **env), capture_output=True, text=True, timeout=600)

    def own(self, path: str) -> Path:
        """Where a path of the image is that this stage has made."""
        return self.upper / path.lstrip("/")


@dataclass
class Image:
    """The Dockerfile, step by step. `stand_ins` are done instead of the commands that begin so."""

    base: Path
    folder: Path
    stand_ins: dict[str, Callable[[Stage], None]] = field(default_factory=dict)
    binds: dict[str, str] = field(default_factory=dict)  # of every stage, as is the next
    env: dict[str, str] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)

    def build(self) -> Stage:
        """The last stage. Raises RuntimeError for a step that fails, AttributeError for an instruction that is not known here."""
        for word, rest in instructions():
            getattr(self, f"_{word.lower()}")(rest)
        return self._stage

    @property
    def _stage(self) -> Stage:
        return list(self.stages.values())[-1]

    def _from(self, rest: str) -> None:
        base, _, name = rest.partition(" AS ")
        assert base == BASE, base
        self.stages[name] = Stage(self.base, self.folder / (name or "last"), binds=dict(self.binds))
        self._stage.env |= self.env

    def _run(self, rest: str) -> None:
        stand_in = next((one for begins, one in self.stand_ins.items() if rest.startswith(begins)), None)
        if stand_in:
            stand_in(self._stage)
            return
        done = self._stage.run(["sh", "-c", rest])
        if done.returncode:
            raise RuntimeError(f"{rest}: {done.stdout}{done.stderr}")

    def _copy(self, rest: str) -> None:
        *sources, target = shlex.split(rest)
        if sources[0].startswith("--from="):
            stage = self.stages[sources[0].partition("=")[2]]
            self._copy_one(stage.own(sources[1]), target)
            return
        for source in sources:
            assert f"!{source}" in (ROOT / ".dockerignore").read_text().split("\n"), f"{source} is ignored"
            self._copy_one(ROOT / source, f"{target}{source}" if target.endswith("/") else target)

    def _copy_one(self, source: Path, target: str) -> None:
        place = self._stage.own(str(Path(self._stage.workdir) / target))
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir() and ROOT not in source.parents:
            subprocess.run(["cp", "-alT", str(source), str(place)], check=True)  # one image's: links will do
        elif source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place)

    def _workdir(self, rest: str) -> None:
        self._stage.workdir = rest
        self._stage.own(rest).mkdir(parents=True, exist_ok=True)

    def _env(self, rest: str) -> None:
        self._stage.env |= dict(word.split("=", 1) for word in shlex.split(rest))

    def _user(self, rest: str) -> None:
        self._stage.user = rest

    def _healthcheck(self, rest: str) -> None:
        self._stage.healthcheck = json.loads(rest.partition("CMD ")[2])

    def _cmd(self, rest: str) -> None:
        self._stage.command = json.loads(rest)

    def _expose(self, rest: str) -> None:
        assert rest == self._stage.env["PORT"]

    def _stopsignal(self, rest: str) -> None:
        assert rest == "SIGTERM"


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    found = [re.fullmatch(r"([A-Z]+) (.+)", line) for line in lines]
    return [(one[1], one[2]) for one in found if one]


@contextmanager
def started(stage: Stage) -> Iterator[Callable[[], subprocess.CompletedProcess[str]]]:
    """The image's command as a container has it, on a free port; what is yielded runs the health check. It must end well on SIGTERM."""
    port = str(free_port())
    migrated = stage.run(["python", "manage.py", "db", "upgrade"])
    assert migrated.returncode == 0, migrated.stderr
    with (
        (stage.folder / "log").open("wb") as log,
        subprocess.Popen(stage.words(stage.command, PORT=port), stdout=log, stderr=log) as process,
    ):
        try:
            yield lambda: stage.run(stage.healthcheck, PORT=port)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def main() -> None:
    """Build it all from nothing but Debian's packages and PyPI."""
    with tempfile.TemporaryDirectory(prefix="intray-image-") as name:
        folder = Path(name)
        subprocess.run(["debootstrap", "--variant=minbase", "bookworm", str(folder / "base")], check=True, stdout=subprocess.DEVNULL)
        folder.chmod(0o755)
        stage = Image(folder / "base", folder / "stages", binds={"/authorities": "/etc/ssl/certs"}, env=MACHINE).build()
        with started(stage) as check:
            until(lambda: check().returncode == 0, 120, (stage.folder / "log").read_text)
        size = subprocess.run(["du", "-sm", stage.upper], capture_output=True, text=True, check=True).stdout.split()[0]
        sys.stdout.write(f"Every step ran, and the image's command is healthy. It adds {size} MB to Debian's.\n")


if __name__ == "__main__":
    main()
