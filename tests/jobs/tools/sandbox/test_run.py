"""The sandbox's limits that take time, the ways in which there is none, and reports that mean harm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import build
from jobs.tools.project import tool_reports
from jobs.tools.project.tool_reports import fit_rows
from jobs.tools.sandbox import cgroup, init_process, launch, seccomp_filter
from jobs.tools.sandbox.run import readable
from jobs.tools.sandbox.workdir import work_dir
from monolith.config import settings
from monolith.job_types.registry import Permanent
from monolith.server import doctor
from tests.support.by_hand import HandJob, run
from tests.support.callers import Caller
from tests.support.processes import ROOT

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    monkeypatch.setenv("INTRAY_HOME", str(tmp_path))

    def change(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        launch._check_available.cache_clear()

    change()
    yield change
    monkeypatch.undo()
    settings.cache_clear()
    launch._check_available.cache_clear()


@needs_bubblewrap
def test_time_ends_it(limits: Callable[..., None]) -> None:
    limits(SANDBOX_SECONDS="1")
    result = run("echo begun", "sleep 1000")
    assert (result["exit_code"], result["killed"]["limit"]) == (137, "time")
    assert result["killed"]["last_output"] == "$ echo begun\nbegun\n$ sleep 1000\n" and result["usage"]["seconds"] > 1


@needs_bubblewrap
def test_it_has_one_cpu_and_neither_much_of_it_nor_another(limits: Callable[..., None]) -> None:
    limits(SANDBOX_SECONDS="2")
    assert "cpus=1\n" in run("python3 -c 'import os; print(f\"cpus={len(os.sched_getaffinity(0))}\")'")["log"]
    spin = "python3 -c 'import os; os.sched_setaffinity(0, range(os.cpu_count())); [os.fork() for _ in range(3)]\nwhile True: pass'"
    assert run(spin)["killed"]["limit"] in ("cpu", "time")


@needs_bubblewrap
def test_a_project_that_is_larger_than_the_disk_is_told(limits: Callable[..., None]) -> None:
    limits(SANDBOX_DISK_MB="16")
    with pytest.raises(Permanent, match="16 MB of disk"):
        build.build(HandJob(), {"files": {f"{number}.py": "x" * (1 << 20) for number in range(17)}})


@needs_bubblewrap
def test_an_exception_ends_the_sandbox(limits: Callable[..., None]) -> None:
    class Stopped(BaseException):
        pass

    class Doomed(HandJob):
        def progress(self, percent: float | None, note: str) -> None:
            super().progress(percent, note)
            if self.notes.count("building") > 5:
                raise Stopped

    mark = f"doomed-{os.getpid()}"
    with pytest.raises(Stopped):
        toml = f"[build]\ncommands = ['setsid sleep 1000 & sleep 1000; echo {mark}']"
        build.build(Doomed(), {"files": {"intray.toml": toml}})
    assert not any(mark.encode() in line for line in map(_line, Path("/proc").glob("[0-9]*")))


def _line(path: Path) -> bytes:
    try:
        return (path / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def anybodys() -> Iterator[Path]:
    """A folder for whoever comes; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="intray-anybodys-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@needs_bubblewrap
def test_an_ordinary_users_sandbox_is_as_closed(anybodys: Path) -> None:
    """Root's sandboxes are opened in another way than those of ordinary users, which is how most workers run."""
    code = """
import json
from tests.support.by_hand import run
print(json.dumps([
    run("id -u; grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status", "cat /proc/1/environ; unshare -U true; echo x > /x"),
    run("python3 -c 'import os\\nwhile True:\\n try: os.fork()\\n except OSError: pass'"),
    run("python3 -c 'b = bytearray(1 << 30)\\nfor place in range(0, len(b), 4096): b[place] = 1'"),
]))
"""
    env = {
        "INTRAY_HOME": str(anybodys),
        "TMPDIR": str(anybodys),
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SANDBOX_MEMORY_MB": "200",
    }
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))])
    user: dict[str, Any] = {"user": 54321, "group": 54321, "extra_groups": []} if os.geteuid() == 0 else {}
    python = next(one for one in (sys.executable, "/usr/bin/python3") if _may_be_run(one, user))
    done = subprocess.run([python, "-c", code], env=env, cwd="/", capture_output=True, text=True, **user)
    assert done.returncode == 0, done.stderr[-3000:]
    closed, bomb, glutton = json.loads(done.stdout.splitlines()[-1])
    assert "1000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n" in closed["log"]
    assert closed["exit_code"] == 2 and "unshare failed" in closed["log"] and closed["log"].count("denied") == 1
    assert (bomb["killed"]["limit"], glutton["killed"]["limit"]) == ("processes", "memory")


def _may_be_run(program: str, user: dict[str, Any]) -> bool:
    """Ours may lie where only root can go."""
    try:
        return subprocess.run([program, "-c", ""], cwd="/", **user).returncode == 0
    except PermissionError:
        return False


@needs_bubblewrap
def test_a_sandbox_is_in_a_control_group_of_its_own(limits: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a real group of the kernel's; its limits where that machine lets a group have them."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    parent = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), Path("/sys/fs/cgroup"))
    limits(SANDBOX_CGROUP=str(parent), SANDBOX_MEMORY_MB="64", SANDBOX_DISK_MB="32")
    if not os.access(parent / "cgroup.procs", os.W_OK):
        assert "SANDBOX_CGROUP" in (launch.unavailable_reason() or "")
        return
    has_limits = "memory" in (parent / "cgroup.subtree_control").read_text()
    if not has_limits:
        assert "memory.max cannot be set" in (launch.unavailable_reason() or "")
        monkeypatch.setattr(cgroup, "limits", dict)
        launch._check_available.cache_clear()
    seen: set[int] = set()

    class Watched(HandJob):
        def progress(self, percent: float | None, note: str) -> None:
            for path in parent.glob(f"intray-{os.getpid()}-*/cgroup.procs"):
                seen.add(len(path.read_text().split()))

    toml = "[build]\ncommands = ['sleep 0.5']"
    assert build.build(Watched(), {"files": {"intray.toml": toml}})["exit_code"] == 0
    assert max(seen) >= 3  # bubblewrap, the first process, the step
    assert not list(parent.glob(f"intray-{os.getpid()}-*"))


def test_a_folder_that_is_no_control_group_any_more_turns_the_types_off(limits: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    limits(SANDBOX_CGROUP=str(tmp_path))
    assert settings().home == tmp_path
    (tmp_path / "cgroup.procs").unlink()  # it was removed after the start
    assert "is not a control group" in (launch.unavailable_reason() or "")
    assert cgroup.Cgroup(tmp_path).was_oom_killed() is False
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 1\n")
    assert cgroup.Cgroup(tmp_path).was_oom_killed()


def test_without_bubblewrap_the_types_are_off_and_nothing_is_run(
    alice: Caller, monkeypatch: pytest.MonkeyPatch, limits: Callable[..., None]
) -> None:
    limits(PATH=str(Path(sys.executable).parent))
    types = {one["name"]: one for one in alice.get("/api/v1/job-types").json["data"]}
    assert all(not types[name]["available"] and "not installed" in types[name]["unavailable_reason"] for name in ("build", "test", "lint"))
    assert doctor.CHECKS["types"]().startswith("build, lint, test off: Projects run in a sandbox")
    answer = alice.post("/api/v1/jobs", json={"type": "build", "params": {"files": {"a.py": ""}}})
    assert answer.status_code == 422 and "apt-get install bubblewrap" in answer.text
    with pytest.raises(Permanent, match="not installed"):
        run("true")


@pytest.mark.parametrize("program", ["echo 'bwrap: No permissions to create new namespace' >&2; exit 1", "exit 0"])
def test_where_bubblewrap_does_not_work_it_says_why(program: str, tmp_path: Path, limits: Callable[..., None]) -> None:
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "bwrap").chmod(0o755)
    limits(PATH=f"{tmp_path}:/usr/bin:/bin")
    reason = launch.unavailable_reason() or ""
    assert "does not work here" in reason and ("No permissions" in reason or "no output" in reason)


def test_on_another_machine_there_is_no_filter_and_so_no_sandbox(monkeypatch: pytest.MonkeyPatch, limits: Callable[..., None]) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert "riscv64" in (launch.unavailable_reason() or "")


@pytest.mark.parametrize("machine", seccomp_filter.MACHINES)
def test_every_jump_of_the_filter_ends_in_it(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    lines = len(seccomp_filter.build_filter()) // 8
    for place in range(lines):
        _, _, when, otherwise = seccomp_filter.build_filter()[place * 8 : place * 8 + 4]
        assert place + 1 + max(when, otherwise) < lines or place >= lines - 2


@pytest.mark.parametrize(
    "report",
    [
        b"",
        b"not xml",
        b"<a><b></a>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><testsuite/>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><testsuite/>',
        b"<a>" * 5000,
        b"x" * (tool_reports.MAX_REPORT + 1),
    ],
)
def test_xml_that_is_no_report_is_refused(report: bytes) -> None:
    with pytest.raises(tool_reports.BadReport):
        tool_reports.junit_cases(report)


def test_odd_reports_are_read_for_what_they_say() -> None:
    first = f'<testcase time="1e999" name="{"n" * 999}"><error>  why&#x9b;</error></testcase>'
    one, other = tool_reports.junit_cases(f"<testsuites><testsuite>{first}<testcase/></testsuite></testsuites>".encode())
    assert (len(one["name"]), one["seconds"], one["outcome"], one["message"]) == (tool_reports.MAX_NAME, None, "error", "why")
    assert (other["name"], other["outcome"], other["message"]) == ("", "passed", None)


@pytest.mark.parametrize(
    "report",
    [
        b"",
        b"{}x",
        b"[1]",
        b'[{"filename": 1, "message": "x"}]',
        b"[" * 100_000,
        b'[{"filePath": "a", "messages": [{}]}]',
        b"\xff",
        b'["a"]',
    ],
)
def test_json_that_is_no_linters_is_refused(report: bytes) -> None:
    with pytest.raises(tool_reports.BadReport):
        tool_reports.lint_diagnostics(report)


def test_eslints_report_is_read() -> None:
    messages = [
        {"ruleId": "no-unused-vars", "severity": 1, "message": "'unused' is assigned a value but never used.", "line": 1, "column": 7},
        {"ruleId": None, "fatal": True, "severity": 2, "message": "Parsing error: Unexpected token ;", "line": 10**30, "column": None},
    ]
    found = tool_reports.lint_diagnostics(json.dumps([{"filePath": f"{init_process.PROJECT}/src/b.js", "messages": messages}]).encode())
    assert [(one["file"], one["line"], one["rule"], one["severity"]) for one in found] == [
        ("src/b.js", 1, "no-unused-vars", "warning"),
        ("src/b.js", None, "syntax", "error"),
    ]


def test_a_result_holds_as_many_rows_as_fit() -> None:
    rows = [{"message": "ä" * 500} for _ in range(2000)]
    assert 500 < len(fit_rows(rows)) < 650
    assert len(json.dumps(fit_rows(rows), ensure_ascii=False).encode()) < 700_000
    assert readable("\x1b[31mred\x1b[0m\x00\r\n\x1b]0;title\x07x\ud800") == "red\nx"


def test_what_a_killed_worker_has_left_is_removed_and_what_is_in_use_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed = subprocess.Popen(
        [sys.executable, "-c", HOLDING], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE
    )
    assert killed.stdout and killed.stdout.readline()
    (left,) = tmp_path.iterdir()
    (left / "big").write_text("x")
    os.utime(left, (0, 0))
    with work_dir() as mine:
        assert sorted(tmp_path.iterdir()) == sorted([left, mine])
    killed.kill()
    killed.communicate()
    with work_dir() as mine:
        assert list(tmp_path.iterdir()) == [mine]
    assert list(tmp_path.iterdir()) == []


HOLDING = """
from jobs.tools.sandbox.workdir import work_dir
with work_dir():
    print("here", flush=True)
    import time; time.sleep(1000)
"""


def test_a_finding_stands_beside_its_line_and_beside_nothing_that_is_not_the_projects(tmp_path: Path) -> None:
    project = tmp_path / "given"
    project.mkdir()
    (tmp_path / "secret.py").write_text("hunter2")
    (project / "a.py").write_text("import os\n\tx = 1\n" + "y" * 1000)
    (project / "link.py").symlink_to(tmp_path / "secret.py")
    places = [("a.py", 2), ("a.py", 3), ("a.py", 9), ("a.py", None), ("a.py", 0), ("none.py", 1)]
    outside = [("../secret.py", 1), (str(tmp_path / "secret.py"), 1), ("link.py", 1), (".", 1), ("a\0.py", 1)]
    shown = tool_reports.with_source_lines([{"file": file, "line": line} for file, line in places + outside], project)
    assert [one["source"] for one in shown] == ["    x = 1", "y" * tool_reports.MAX_SOURCE_LINE, *[None] * (len(places) + len(outside) - 2)]
