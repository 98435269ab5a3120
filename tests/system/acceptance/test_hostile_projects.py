"""Ten projects that mean harm, through the API and real processes: each ends within its limits and harms nothing."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import link, tarred, zipped
from tests.support.processes import until
from tests.support.workshop import SECRET, Workshop, commands, is_running

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def attack(workshop: Workshop, code: str) -> dict[str, Any]:
    """The result of a project whose tests are this program."""
    return workshop.run("test", {"intray.toml": commands("test", "python3 attack.py"), "attack.py": code})


@pytest.fixture(autouse=True)
def unharmed(workshop: Workshop) -> Iterator[None]:
    """After each of them the next project is served, and nothing is left of it."""
    yield
    assert attack(workshop, "print('still here')")["log"].endswith("still here\n")
    assert not list(Path(workshop.intray.env.get("TMPDIR", "/tmp")).glob("intray-project-*/given/attack.py"))


def test_a_fork_bomb_is_put_out(workshop: Workshop) -> None:
    mark = f"bomb-{secrets.token_hex(8)}"
    code = "import os, sys\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    toml = commands("test", f"python3 attack.py {mark}")
    result = workshop.run("test", {"intray.toml": toml, "attack.py": code})
    assert (result["killed"]["limit"], result["exit_code"]) == ("processes", 137)
    assert not is_running(mark)


def test_there_is_no_network(workshop: Workshop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        name = f"\0intray-{secrets.token_hex(8)}"
        abstract.bind(name)
        abstract.listen()
        places = [("127.0.0.1", server.getsockname()[1]), ("127.0.0.1", workshop.intray.port), ("192.0.2.1", 80), ("1.1.1.1", 53)]
        paths = [name, str(workshop.intray.home / "redis.sock"), "/var/run/postgresql/.s.PGSQL.5432", "/run/docker.sock"]
        result = attack(
            workshop,
            f"""
import socket
for place in {[*places, *paths]!r}:
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
    try:
        with socket.socket(family) as one:
            one.settimeout(3)
            one.connect(place)
        print("REACHED", place)
    except OSError as error:
        print("kept out", error)
try:
    print("REACHED", socket.getaddrinfo("example.org", 80))
except OSError as error:
    print("kept out", error)
""",
        )
    assert result["log"].count("kept out") == len(places) + len(paths) + 1 and "REACHED" not in result["log"]


def test_files_of_others_cannot_be_read(workshop: Workshop) -> None:
    home = workshop.intray.home
    assert (home / "secret_key").exists()
    secret = (home / "secret_key").read_text()
    paths = [home / "secret_key", home / "intray.sqlite3", "/etc/shadow", "/root/.bashrc", Path.home() / ".profile", "/proc/1/environ"]
    paths += ["/proc/1/root/etc/shadow", "/proc/1/cwd", "/proc/1/mem", f"/proc/{os.getpid()}/environ", "/dev/vda", "/dev/mem", __file__]
    result = attack(
        workshop,
        f"""
import os
for path in {[str(path) for path in paths]!r}:
    try:
        print("READ", path, open(path, "rb").read(100))
    except OSError as error:
        print("kept out", error)
print(dict(os.environ))
for pid in filter(str.isdigit, os.listdir("/proc")):
    print("process", pid, open(f"/proc/{{pid}}/cmdline").read()[-200:])
""",
    )
    assert result["log"].count("kept out") == len(paths) and "READ" not in result["log"]
    assert SECRET not in result["log"] and secret not in result["log"] and str(home) not in result["log"].partition("process")[2]
    assert result["log"].count("process ") <= 3


def test_nothing_outside_can_be_written(workshop: Workshop) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    places = ["/usr/x", "/etc/x", "/x", "/given/x", "/intray/x", "/dev/x", "/proc/sys/kernel/core_pattern", f"{sys.prefix}/x"]
    places += [f"{workshop.intray.home}/x", f"/proc/{os.getpid()}/oom_score_adj", "/sys/x", "/root/x", "/var/x", "/run/x"]
    result = attack(
        workshop,
        f"""
import ctypes, os
for place in {places!r}:
    try:
        open(place, "w").write("x")
        print("WRITTEN", place)
    except OSError as error:
        print("kept out", error)
for act in (lambda: os.chmod("/usr", 0o777), lambda: os.setuid(0), lambda: os.chroot("/tmp"), lambda: os.mknod("d", 0o60666, 0x0fe00),
            lambda: os.kill({os.getpid()}, 9)):
    try:
        act()
        print("WRITTEN", act)
    except OSError as error:
        print("kept out", error)
libc = ctypes.CDLL(None)
print("MOUNTED" if libc.mount(b"none", b"/tmp/home", b"tmpfs", 0, None) == 0 else "kept out")
print("NAMESPACE" if libc.unshare(0x10000000) == 0 else "kept out")
""",
    )
    assert result["log"].count("kept out") == len(places) + 7, result["log"]
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_a_full_disk_is_the_projects_own(workshop: Workshop) -> None:
    free = shutil.disk_usage("/").free
    code = """
chunk = bytes(1 << 20)
for name in ("a", "/tmp/b", "/tmp/home/c", "/dev/shm/d"):
    try:
        with open(name, "wb") as file:
            while True:
                file.write(chunk)
    except OSError as error:
        print(error)
"""
    result = attack(workshop, code)
    assert result["killed"]["limit"] == "disk" and "96 MB" in result["killed"]["detail"]
    assert shutil.disk_usage("/").free > free - (500 << 20)  # others write meanwhile


def test_millions_of_files_are_too_many(workshop: Workshop) -> None:
    result = attack(workshop, "for number in range(10 ** 7):\n    open(str(number), 'w').close()\n")
    assert result["killed"]["limit"] == "files"


def test_a_link_out_of_the_project_is_refused_or_leads_nowhere(workshop: Workshop) -> None:
    for name, target in (("out", "/etc/shadow"), ("a/out", "../../../../etc/shadow")):
        refused = workshop.over(workshop.submit("build", tarred(("a.py", b"x = 1"), link(name, target)), "p.tar.gz"))
        assert refused["status"] == "failed" and refused["attempt"] == 1
        assert "outside the project" in refused["error"]["message"]
    secret = workshop.intray.home / "secret_key"
    toml = commands("build", f"mkdir dist; ln -s {secret} dist/a; ln -s / dist/all; ln {secret} dist/b; mkfifo dist/c; echo good > dist/d")
    result = workshop.run("build", {"intray.toml": toml + '\nartifacts = ["dist/**/*"]', "a.py": ""})
    assert [one["path"] for one in result["artifacts"]] == ["dist/d"]


def test_who_leaves_its_session_ends_all_the_same(workshop: Workshop) -> None:
    mark = f"escape-{secrets.token_hex(8)}"
    code = f"""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 64):
            try:
                __import__("signal").signal(number, __import__("signal").SIG_IGN)
            except (OSError, ValueError):
                pass
        os.closerange(0, 100)
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)", "{mark}"])
    os._exit(0)
time.sleep(0.3)
print("gone")
"""
    result = attack(workshop, code)
    assert result["exit_code"] == 0 and result["killed"] is None and result["log"].endswith("gone\n")
    assert not is_running(mark)


@pytest.mark.parametrize(
    "allocate", ["bytearray(4 << 30)", "__import__('mmap').mmap(-1, 4 << 30)"], ids=["memory of its own", "shared memory"]
)
def test_four_gigabytes_are_too_much(workshop: Workshop, allocate: str) -> None:
    result = attack(workshop, f"print('begun', flush=True)\nb = {allocate}\nfor place in range(0, len(b), 4096):\n    b[place] = 1\n")
    assert (result["killed"]["limit"], result["exit_code"]) == ("memory", 137)
    assert 384 < result["killed"]["peak_memory_mb"] < 1500
    assert result["killed"]["last_output"].endswith("begun\n")


def test_memory_that_no_process_shows_is_not_given(workshop: Workshop) -> None:
    result = attack(workshop, "import os\ntry:\n    os.memfd_create('x')\nexcept OSError as error:\n    print(error.strerror)\n")
    assert result["log"].endswith("Function not implemented\n")


def test_endless_output_ends(workshop: Workshop) -> None:
    job = workshop.over(
        workshop.submit_files("test", {"intray.toml": commands("test", "python3 a.py"), "a.py": "while True: print('\\x1b[31mno end\\0')"})
    )
    assert job["result"]["killed"]["limit"] == "output"
    assert len(job["result"]["log"]) < 70_000 and "no end\nno end\n" in job["result"]["log"]
    assert len(workshop.file(job, "log.txt")) <= 5 << 20


def test_a_zip_bomb_is_put_out(workshop: Workshop) -> None:
    bomb = zipped({f"{number}.py": b"\n" * (30 << 20) for number in range(4)})
    failed = workshop.over(workshop.submit("test", bomb))
    assert failed["status"] == "failed" and "more than 100 MB" in failed["error"]["message"] and failed["attempt"] == 1


def test_a_report_that_swells_is_not_read(workshop: Workshop) -> None:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    xml = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "lol">{entities}<!ENTITY f SYSTEM "file:///etc/passwd">]><testsuite>&l9;&f;</testsuite>'
    toml = commands("test", "cp given.xml junit.xml", junit="junit.xml")
    result = workshop.run("test", {"intray.toml": toml, "given.xml": xml})
    assert result["cases"] == [] and "cannot be read" in result["note"] and "root:" not in str(result)


def test_a_stopped_job_takes_everything_along(workshop: Workshop) -> None:
    mark = f"stopped-{secrets.token_hex(8)}"
    toml = commands("build", f"setsid python3 -c 'import time; time.sleep(1000)' {mark} & sleep 1000")
    job = workshop.submit_files("build", {"intray.toml": toml})
    until(lambda: is_running(mark))
    until(lambda: workshop.get(job["links"]["self"]).json()["progress_note"] == "building")  # progress is told a little later
    assert workshop.post(f"{job['links']['self']}/stop").status_code == 200
    until(lambda: not is_running(mark))
    assert workshop.over(job)["status"] == "stopped"


def test_a_killed_worker_takes_everything_along_and_the_job_runs_again(workshop: Workshop) -> None:
    mark = f"killed-{secrets.token_hex(8)}"
    toml = commands("build", f"setsid python3 -c 'import time; time.sleep(1000)' {mark} & sleep 1000")
    job = workshop.submit_files("build", {"intray.toml": toml})
    until(lambda: is_running(mark))
    os.kill(_bubblewraps_parent(mark), signal.SIGKILL)
    until(lambda: workshop.get(job["links"]["self"]).json()["interruptions"] == 1, 60)
    workshop.post(f"{job['links']['self']}/cancel")
    workshop.post(f"{job['links']['self']}/stop")
    until(lambda: not is_running(mark))


def _bubblewraps_parent(mark: str) -> int:
    """The child of a worker in whose sandbox something with this mark runs."""
    path = next(one for one in Path("/proc").glob("[0-9]*") if mark.encode() in _line(one) and b"bwrap" in _line(one).split(b"\0")[0])
    return int((path / "stat").read_text().rpartition(")")[2].split()[1])


def _line(path: Path) -> bytes:
    try:
        return (path / "cmdline").read_bytes()
    except OSError:
        return b""
