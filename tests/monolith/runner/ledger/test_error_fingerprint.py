"""What two failures have in common."""

from __future__ import annotations

import pytest

from monolith.runner.ledger import error_fingerprint
from monolith.runner.ledger.error_fingerprint import OURS as PREFIX

OURS = f'Traceback (most recent call last):\n  File "{PREFIX}monolith/runner/worker/execute.py", line 70, in _attempt\n    x\n'
FRAME = '  File "{}", line {}, in {}\n    x\n'


@pytest.mark.parametrize(
    ("message", "alike"),
    [
        ("the site answered 503", "the site answered <n>"),
        ("https://a.example/x?y=1 did not answer within 0.5 s", "<address> did not answer within <n> s"),
        ("'a b' can't be read, it isn't there", "‘…’ can't be read, it isn't there"),
        ("worker ip-10-0-0-1:4242 was silent for 30 s", "worker <address> was silent for <n> s"),
        ("worker 3f2a9bc84d11 was silent", "worker <id> was silent"),
        ("10.0.0.1:5432 refused bob@example.org", "<address> refused <address>"),
        ("job 0b2c9be4-6a0b-4c64-a911-0cb2c3d4e5f6 at 0x7f00", "job <id> at <id>"),
        ("\n  first line  \nsecond line", "first line"),
        ("", ""),
        ("a decade of facade", "a decade of facade"),
    ],
)
def test_what_differs_between_jobs_is_left_out_of_the_message(message: str, alike: str) -> None:
    assert error_fingerprint.fingerprint_of("E", message, None).message == alike


@pytest.mark.parametrize(
    ("trace", "place"),
    [
        (None, ""),
        (OURS, "monolith/runner/worker/execute.py in _attempt"),
        (OURS + FRAME.format(f"{PREFIX}jobs/analyze.py", 12, "read"), "jobs/analyze.py in read"),
        (
            OURS + FRAME.format("/app/.venv/lib/python3.11/site-packages/requests/api.py", 9, "get"),
            "monolith/runner/worker/execute.py in _attempt",
        ),
        (OURS + FRAME.format("/usr/lib/python3.11/json/__init__.py", 9, "loads"), "monolith/runner/worker/execute.py in _attempt"),
        (OURS + FRAME.format("/opt/theirs/extra/scan.py", 3, "<lambda>"), "extra/scan.py in <lambda>"),
    ],
)
def test_the_place_is_the_innermost_frame_of_ours_without_its_line(trace: str | None, place: str) -> None:
    assert error_fingerprint.fingerprint_of("E", "m", trace).place == place


def test_the_same_cause_has_the_same_key_and_another_has_another() -> None:
    same = {error_fingerprint.fingerprint_of("E", f"step {number} failed", OURS.replace("70", str(number))).key for number in range(20)}
    others = {
        error_fingerprint.fingerprint_of("E", "step 1 ended", OURS).key,
        error_fingerprint.fingerprint_of("F", "step 1 failed", OURS).key,
        error_fingerprint.fingerprint_of("E", "step 1 failed", None).key,
    }
    assert (len(same), len(others), len(same & others)) == (1, 3, 0)


def test_a_long_and_hostile_message_is_quickly_done_with() -> None:
    for message in ("'" * 100_000, '"' + "a" * 100_000, "1." * 100_000, "a-" * 100_000, "0" * 100_000, "x@" * 100_000):
        assert len(error_fingerprint.fingerprint_of("E", message, "File " * 10_000).key) == error_fingerprint.KEY_LENGTH
