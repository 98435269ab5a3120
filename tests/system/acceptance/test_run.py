"""`manage.py run`: how it starts, what it says when it cannot, and that it leaves nothing behind."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support import command_server
from tests.support.processes import ANNOUNCED, MANAGE, ROOT, VENV_ONLY, Intray, NewIntray, free_port, until


def test_the_first_run_prints_a_password_and_later_ones_do_not(new_intray: NewIntray) -> None:
    intray = new_intray()
    intray.forks = False
    intray.start()
    assert intray.output().count("Password:") == 1
    assert f"Intray is ready: {intray.base_url}" in intray.output()
    assert intray.email == "admin@localhost"
    ends_without_a_trace(intray, signal.SIGINT)  # Ctrl-C

    intray.start()
    assert intray.output().count("Intray is ready") == 2
    assert intray.output().count("Password:") == 1
    ends_without_a_trace(intray, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def ends_without_a_trace(intray: Intray, *signals: signal.Signals) -> None:
    assert len(intray.processes()) >= 6  # run, redis, web and its worker, clock, two workers
    assert intray.run
    for number in signals:
        intray.run.send_signal(number)
    assert intray.run.wait(40) == 0
    assert intray.processes() == {}
    assert not intray.is_ready()
    assert "Traceback" not in intray.output()


def test_killing_it_ends_all_its_processes_and_jobs_and_does_not_hinder_the_next_run(new_intray: NewIntray, tmp_path: Path) -> None:
    (tmp_path / "sleep").symlink_to(shutil.which("sleep") or "")
    intray = new_intray(PATH=f"{VENV_ONLY}:{tmp_path}", SHUTDOWN_GRACE="1", JOB_PACKAGES="jobs,tests.trial_jobs")
    intray.forks = False
    intray.start()
    occupy_a_worker(intray)
    assert intray.run
    intray.run.kill()
    intray.run.wait()
    until(lambda: intray.processes() == {}, or_else=lambda: str(intray.processes()))

    intray.start()
    for pid in intray.processes():  # as a machine that loses its power
        os.kill(pid, signal.SIGKILL)
    until(lambda: intray.processes() == {})
    assert (intray.home / "redis.sock").exists()
    assert intray.start().stop() == 0


def test_ending_it_kills_a_job_that_does_not_end_and_what_the_job_started(new_intray: NewIntray) -> None:
    intray = new_intray(SHUTDOWN_GRACE="1", JOB_PACKAGES="jobs,tests.trial_jobs").start()
    occupy_a_worker(intray)
    assert intray.stop() == 0
    assert intray.processes() == {}
    assert "it got SIGKILL" in intray.output()


@pytest.mark.parametrize("name", ["clock ", "valkey"])
def test_a_process_that_dies_comes_back(running: Intray, name: str) -> None:
    died, *_ = [pid for pid, line in running.processes().items() if name in line]
    os.kill(died, signal.SIGKILL)
    running.wait_until(lambda: any(pid != died and name in line for pid, line in running.processes().items()))
    running.wait_until(lambda: running.manage("doctor").returncode == 0)
    assert "process_ended" in running.output()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intray]:
    with Intray(tmp_path_factory.mktemp("running") / "home", {"PATH": VENV_ONLY}) as one:
        yield one.start()


def test_a_home_with_a_long_path_and_odd_characters_works_and_a_second_run_on_it_says_so(new_intray: NewIntray, tmp_path: Path) -> None:
    first = new_intray(tmp_path / "a home? 100% ß#" / ("long" * 30)).start()
    first.wait_until(lambda: first.manage("doctor").returncode == 0)
    second = new_intray(first.home)
    assert one_line(second) == f"Error: Intray is already running in {first.home}. Stop it, or set INTRAY_HOME to another folder."
    assert first.is_ready()
    assert first.stop() == 0
    assert first.processes() == {}


def test_a_taken_port_says_which_and_what_to_do(new_intray: NewIntray) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        intray = new_intray(PORT=str(other.getsockname()[1]))
        assert re.fullmatch(
            r"Error: Cannot listen on 127.0.0.1 port \d+ \(Address already in use\)\. Use another port: .*", one_line(intray)
        )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HOST", "8.8.8.8", "Set HOST to an address of this machine"),
        ("DATABASE_URL", "postgresql://a:secret@no.such.host.invalid/b", "DATABASE_URL"),
        ("DATABASE_URL", "postgresql://a:secret@127.0.0.1:1/b", "DATABASE_URL"),
        ("DATABASE_URL", "sqlite:////proc/nowhere/intray.sqlite3", "/proc/nowhere"),
        ("REDIS_URL", "redis://:secret@127.0.0.1:1/0", "REDIS_URL"),
        ("REDIS_URL", "redis://no.such.host.invalid", "REDIS_URL"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(new_intray: NewIntray, name: str, value: str, said: str) -> None:
    line = one_line(new_intray(**{name: value}))
    assert said in line
    assert "secret" not in line


def test_a_job_type_that_cannot_be_loaded_ends_a_run_and_stops_a_release_and_the_web_goes_on(new_intray: NewIntray, tmp_path: Path) -> None:
    package = tmp_path / "adopted"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "bad.py").write_text("from monolith.job_types.registry import job_type\ndef bad(:\n")
    intray = new_intray(PYTHONPATH=str(tmp_path), JOB_PACKAGES="jobs,adopted", SECRET_KEY="k" * 40)
    assert "adopted/bad.py, line 2: SyntaxError: invalid syntax" in one_line(intray)
    examined = intray.manage("doctor", "--release")
    assert examined.returncode == 1
    assert re.search(r"^PROBLEM +types .*adopted/bad.py, line 2: SyntaxError: invalid syntax", examined.stdout, re.MULTILINE)
    intray.start_web()
    headers = {"Authorization": f"Bearer {intray.token(intray.user('a@example.org'))}"}
    answer = requests.post(f"{intray.base_url}/api/v1/jobs", json={"type": "bad"}, headers=headers, timeout=20)
    assert answer.status_code == 422 and "bad is not available here" in answer.text and "adopted" not in answer.text
    assert "job_types_broken" in intray.output()


@pytest.mark.parametrize("command", ["run", "web", "worker", "clock", "db upgrade", "doctor"])
def test_every_start_ends_with_a_line_for_each_setting_that_cannot_be_used(new_intray: NewIntray, command: str) -> None:
    wrong = {"PORT": "99999", "WEB_THREADS": "0", "LOG_FORMAT": "xml", "REDIS_URL": "redis://:Zs3cr3t/xyz@127.0.0.1:1/0"}
    done = command_server.run(tuple(command.split()), new_intray(**wrong, WORKER_CONCURENCY="3").env)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "WORKER_CONCURENCY is not a setting" not in line]
    assert done.returncode == 1
    assert sorted(re.findall(r"^(?:Error: |PROBLEM +settings +)(\w+) ", "\n".join(lines), re.MULTILINE)) == sorted(wrong)
    assert len(lines) == len(wrong), lines
    assert "Zs3cr3t" not in done.stdout + done.stderr
    assert ("Did you mean WORKER_CONCURRENCY?" in done.stdout) is (command == "doctor")


def test_a_password_is_asked_for_and_one_on_the_command_line_leaves_it(with_tables: Intray) -> None:
    words = ("user", "password", "--email", "taken@example.org")
    command = [sys.executable, str(MANAGE), *words]
    given = "seven green hats in Lyon\n"
    asked = subprocess.run(command, cwd=ROOT, env=with_tables.env, input=2 * given, capture_output=True, text=True, timeout=60)
    assert asked.returncode == 0 and given.strip() not in asked.stdout + asked.stderr
    shown = "import sys, manage; sys.argv[1:] = sys.orig_argv[3:]; open('/proc/self/cmdline').read()"
    script = f"{shown}; manage.main(standalone_mode=False); print(open('/proc/self/cmdline').read())"
    hidden = [sys.executable, "-c", script, *words, "--password", given.strip()]
    done = subprocess.run(hidden, cwd=ROOT, env=with_tables.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "***" in done.stdout and "green hats" not in done.stdout, done


def test_a_wrong_password_of_the_database_is_said_in_one_line(new_intray: NewIntray, postgresql_url: str) -> None:
    line = one_line(new_intray(DATABASE_URL=postgresql_url.replace(":secret@", ":wrong@")))
    assert "password authentication failed" in line
    assert "DATABASE_URL" in line


@pytest.mark.parametrize("nature", ["a file", "below a file", "nowhere to write"])
def test_a_home_that_cannot_be_written_is_said_in_one_line(new_intray: NewIntray, tmp_path: Path, nature: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    home = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "home", "nowhere to write": Path("/proc/intray")}[nature]
    for secret in ({}, {"SECRET_KEY": "x" * 40}):
        line = one_line(Intray(home, secret))
        assert str(home) in line
        assert "INTRAY_HOME" in line


def test_doctor_finds_what_does_not_run(new_intray: NewIntray) -> None:
    examined = new_intray().manage("doctor")
    assert examined.returncode == 1
    assert re.search(r"^PROBLEM +database .*manage.py db upgrade", examined.stdout, re.MULTILINE)
    assert re.search(r"^PROBLEM +redis .*make run", examined.stdout, re.MULTILINE)
    assert examined.stderr == ""


def test_doctor_finds_a_redis_that_evicts(new_intray: NewIntray, redis_server: str) -> None:
    intray = new_intray(REDIS_URL=redis_server)
    intray.checked("db", "upgrade")
    subprocess.run(["redis-cli", "-u", redis_server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru"], check=True, capture_output=True)
    try:
        examined = intray.manage("doctor")
    finally:
        subprocess.run(
            ["redis-cli", "-u", redis_server, "CONFIG", "SET", "maxmemory-policy", "noeviction"], check=True, capture_output=True
        )
    assert examined.returncode == 1
    assert re.search(r"^PROBLEM +eviction .*allkeys-lru.*noeviction", examined.stdout, re.MULTILINE)
    assert re.search(r"^PROBLEM +clock .*manage.py clock", examined.stdout, re.MULTILINE)


@pytest.fixture(scope="module")
def with_tables(tmp_path_factory: pytest.TempPathFactory) -> Intray:
    intray = Intray(tmp_path_factory.mktemp("tables") / "home")
    intray.checked("db", "upgrade")
    intray.user("taken@example.org")
    return intray


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("user", "create", "--email", "nobody", "--password", "x"), "is not an e-mail address"),
        (("user", "create", "--email", "taken@example.org", "--password", "three brown ducks in Ghent"), "taken@example.org already"),
        (("token", "create", "--email", "unknown@example.org"), "User unknown@example.org does not exist"),
        (("worker",), "make run"),
        (("worker", "--burst"), "make run"),
    ],
)
def test_a_command_that_cannot_be_done_says_why_in_one_line(with_tables: Intray, words: tuple[str, ...], said: str) -> None:
    assert said in one_line(with_tables, *words)


def test_a_command_before_the_tables_exist_says_what_to_do(new_intray: NewIntray) -> None:
    assert "db upgrade" in one_line(new_intray(), "token", "create", "--email", "a@example.org")


def test_on_a_terminal_each_line_says_who_speaks(new_intray: NewIntray) -> None:
    intray = new_intray()
    intray.port = free_port()
    master, terminal = pty.openpty()
    intray.run = subprocess.Popen([sys.executable, MANAGE, "run"], cwd=ROOT, env=intray.env, stdout=terminal, stderr=terminal)
    intray.spawned.append(intray.run)
    os.close(terminal)
    said = ""
    while ANNOUNCED not in said or "worker_started" not in said:
        said += os.read(master, 4096).decode()
    assert re.search(r"\x1b\[\d+mworker +\|\x1b\[0m", said)
    assert '{"' not in said
    intray.run.send_signal(signal.SIGHUP)
    os.close(master)  # as a closed window does: whoever writes now gets an error
    assert intray.run.wait(40) == 0
    assert intray.processes() == {}


def occupy_a_worker(intray: Intray) -> None:
    """Wait until a worker runs a job that has started `sleep 300` and waits for it."""
    headers = {"Authorization": f"Bearer {intray.token()}"}
    answer = requests.post(f"{intray.base_url}/api/v1/jobs", json={"type": "trial_program"}, headers=headers, timeout=20)
    assert answer.status_code == 202, answer.text
    intray.wait_until(lambda: "sleep 300 " in intray.processes().values())


def one_line(intray: Intray, *words: str) -> str:
    """What a command says that fails as it should: exit 1, nothing on standard output, one line on standard error."""
    done = intray.manage(*(words or ("run",)))
    lines = done.stderr.splitlines()
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]
