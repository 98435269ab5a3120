"""The benchmarks run to their end with tiny numbers and leave nothing behind. How quick anything is, no test says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from bench.commands import commands
from tests.support.processes import MANAGE, OURS, NewIntray, until

COMMANDS = {
    "worker": ("--jobs", "4", "--concurrency", "2"),
    "latency": ("--jobs", "3"),
    "memory": ("--concurrency", "2"),
    "idle": ("--seconds", "0.2", "--concurrency", "2"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_it_prints_a_table_with_stock_rq_first(new_intray: NewIntray, command: str) -> None:
    done = new_intray().manage("bench", command, "--passes", "1", *COMMANDS[command])
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows[2].startswith("| stock rq worker") and "(1.0x)" in rows[2]
    assert any("our engine" in row for row in rows)
    assert any(row.startswith("| ours, with the ledger in SQLite") for row in rows)


def test_a_steady_load_is_told_with_what_it_took_and_whether_it_was_held(new_intray: NewIntray) -> None:
    done = new_intray().manage("bench", "load", "--minutes", "0.05", "--per-minute", "200", "--steps", "1", "--step-seconds", "1")
    assert done.returncode in (0, 1), done.stderr
    figures = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith(("| 200 ", "| 300 "))]
    assert [row[2] for row in figures] == ["0", "0"], done.stdout  # no errors
    assert "| worker |" in done.stdout and "Sustained: " in done.stdout and "Limits reached at 300 per minute: " in done.stdout


def test_with_an_empty_postgresql_the_ledger_takes_part_and_is_left_empty(new_intray: NewIntray, postgresql_url: str) -> None:
    done = new_intray(DATABASE_URL=postgresql_url).manage("bench", "worker", "--passes", "1", *COMMANDS["worker"])
    assert done.returncode == 0, done.stderr
    assert "| ours, with the ledger in PostgreSQL" in done.stdout
    assert rows_of(postgresql_url, "jobs") == rows_of(postgresql_url, "users") == 0


def test_waits_are_measured_alone_and_beside_a_heavy_user(new_intray: NewIntray) -> None:
    done = new_intray().manage("bench", "fair", "--passes", "1", "--seconds", "0.5", "--job-ms", "20", "--concurrency", "1", "--light", "4")
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[1:3]] == ["4 light users", "beside 1 heavy user"]


def test_streams_are_measured_and_all_stay_open(new_intray: NewIntray) -> None:
    done = new_intray().manage("bench", "streams", "--streams", "30", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert "| 30 streams, jobs changing" in done.stdout
    assert "30 of 30 streams were open at the end" in done.stdout


def test_a_database_in_which_somebody_is_is_left_alone(new_intray: NewIntray, postgresql_url: str) -> None:
    intray = new_intray(DATABASE_URL=postgresql_url)
    intray.checked("db", "upgrade")
    intray.user("alice@example.org")
    done = intray.manage("bench", "latency", "--passes", "1", *COMMANDS["latency"])
    assert done.returncode == 0, done.stderr
    assert "Skipping the ledger: the database of DATABASE_URL is not empty" in done.stdout
    assert rows_of(postgresql_url, "users") == 1


def test_a_redis_in_which_something_is_is_refused(new_intray: NewIntray, redis_server: str) -> None:
    with Redis.from_url(redis_server) as redis:
        redis.set("precious", "1")
        done = new_intray(REDIS_URL=redis_server).manage("bench", "idle")
        assert done.returncode == 1 and "The Redis of REDIS_URL is not empty" in done.stderr
        assert redis.get("precious") == b"1"


def test_ctrl_c_leaves_no_process(new_intray: NewIntray) -> None:
    intray = new_intray()
    command = intray.spawn("bench", "idle", "--seconds", "60")
    intray.wait_until(lambda: any("rq.cli" in line for line in intray.processes().values()))
    command.send_signal(signal.SIGINT)
    intray.wait_until(lambda: command.poll() == 1, 30)
    until(lambda: not intray.processes())


WITH_NOTHING_SET = {
    "submit": (("--passes", "1", "--seconds", "1"), "ours / bare"),
    "clock": (("--queued", "40", "--finished", "40"), "a full tick, with every task due"),
    "admin": ((), "Error: Set DATABASE_URL to an empty PostgreSQL database. This command fills it with a million rows."),
}


def test_each_is_run_with_nothing_set() -> None:
    assert {*COMMANDS, *WITH_NOTHING_SET, "fair", "load", "streams"} == set(commands.commands)


@pytest.mark.parametrize("command", WITH_NOTHING_SET)
def test_with_nothing_set_it_works_or_says_what_to_do_and_leaves_nothing(tmp_path: Path, command: str) -> None:
    """As in a checkout in which `make run` does not run: no home, no Redis, no database."""
    options, said = WITH_NOTHING_SET[command]
    env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    words = [sys.executable, MANAGE, "bench", command, *options]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=110)
    assert said in done.stdout + done.stderr
    assert done.returncode == said.startswith("Error: "), done.stderr
    assert list(tmp_path.iterdir()) == []


def rows_of(url: str, table: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert found
        return int(found[0])
