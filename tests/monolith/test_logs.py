"""Logs carry no secrets, and every line names its process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from monolith import logs


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abcdef.123", "Authorization: Bearer ***"),
        ('{"Authorization": "Bearer abcdef.123", "a": 1}', '{"Authorization": "Bearer ***", "a": 1}'),
        (r"{\"authorization\": \"Basic YTpi\"}", r"{\"authorization\": \"Basic ***\"}"),
        ("Authorization=plainsecret", "Authorization=***"),
        ("key sk-proj-abc_DEF123456 refused", "key sk-*** refused"),
        ("token intray_leKKvkhM22oKev1evuoeEvac-CFo", "token intray_***"),
        ("redis://:hidden@host:6379/0", "redis://:***@host:6379/0"),
        ("postgresql+psycopg://me:p%40ss:word@host/db", "postgresql+psycopg://me:***@host/db"),
    ],
)
def test_secrets_are_masked(text: str, masked: str) -> None:
    assert logs.mask(text) == masked


@pytest.mark.parametrize(
    "text", ["risk-free documents", "http://host:8000/a@b", "a@example.org at 10:30", "authorization was refused", "intray_web"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert logs.mask(text) == text


def test_a_line_is_json_with_process_level_time_and_context() -> None:
    line = json.loads(
        written("structlog.contextvars.bind_contextvars(job_id='j'); structlog.get_logger().info('hello', a=1, b=float('nan'))")
    )
    assert {name: line[name] for name in ("event", "process", "level", "job_id", "a", "b")} == {
        "event": "hello",
        "process": "trial",
        "level": "info",
        "job_id": "j",
        "a": 1,
        "b": None,  # JSON has no NaN
    }
    assert line["timestamp"].endswith("Z")


def test_libraries_write_the_same_lines_and_their_secrets_are_masked_too() -> None:
    line = json.loads(written("import logging; logging.getLogger('rq.worker').warning('lost %s', 'redis://:hidden@host')"))
    assert (line["event"], line["process"], line["level"]) == ("lost redis://:***@host", "trial", "warning")


def test_a_traceback_is_part_of_its_line() -> None:
    raising = "\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    structlog.get_logger().exception('broke')"
    assert "ZeroDivisionError" in json.loads(written(raising))["exception"]


def written(code: str) -> str:
    """What one process writes: the set-up of logs is for a whole process."""
    script = f"import structlog\nfrom monolith import logs\nlogs.configure('trial')\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == ""
    return done.stderr
