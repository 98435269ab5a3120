"""What a job may leave beside its result: files, which are refused with a message where they cannot be stored."""

from __future__ import annotations

from typing import Any

import pytest

from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.jobs import stored, submit_job


def attach(caller: Caller, **params: Any) -> Any:
    """The row of a job that attaches these files."""
    job = submit_job(caller, "trial_attach", params=params)
    execute.run(job["id"])
    return stored(job["id"])


@pytest.mark.databases
def test_files_up_to_the_limits_are_kept_as_bytes(alice: Caller, intray_settings: Any) -> None:
    intray_settings(MAX_ARTEFACT_BYTES="1000", MAX_ARTEFACT_BYTES_PER_JOB="2500", MAX_ARTEFACTS_PER_JOB="3")
    row = attach(alice, sizes=[1000, 1000, 500], name="a report\u202f1.bin")
    assert (row.status, [file.size for file in row.artefacts]) == ("finished", [1000, 1000, 500])
    url = alice.get(f"/api/v1/jobs/{row.id}").json["artifacts"][0]["url"]
    assert alice.get(url).data == bytes(1000)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (
            {"text": "a text", "name": "a.txt"},
            "'a.txt' as a str. The job type's developer must pass bytes, such as job.attach('a.txt', text.encode()",
        ),
        ({"sizes": [1001]}, "'0-a.bin' has 1,001 bytes, over the limit of 1,000 (MAX_ARTEFACT_BYTES)"),
        (
            {"sizes": [900, 900, 900]},
            "With '2-a.bin', the job's files have 2,700 bytes, over the limit of 2,500 (MAX_ARTEFACT_BYTES_PER_JOB)",
        ),
        ({"sizes": [1, 1, 1, 1]}, "With '3-a.bin', the job has 4 files, over the limit of 3 (MAX_ARTEFACTS_PER_JOB)"),
        ({"sizes": [1], "name": "a" * 199}, "must pass 1 to 200 characters"),
        ({"sizes": [1], "name": "../a"}, "without slashes"),
        ({"sizes": [1], "name": "a\nb"}, "control characters"),
        ({"sizes": [1], "media_type": "text/plain\r\nX-Injected: 1"}, "media type"),
    ],
    ids=["text", "large", "together", "many", "long name", "slash", "line break", "media type"],
)
def test_a_file_that_cannot_be_stored_fails_the_job_at_once_and_says_why(
    alice: Caller, intray_settings: Any, params: dict[str, Any], said: str
) -> None:
    intray_settings(MAX_ARTEFACT_BYTES="1000", MAX_ARTEFACT_BYTES_PER_JOB="2500", MAX_ARTEFACTS_PER_JOB="3")
    row = attach(alice, **params)
    assert (row.status, row.error_type, row.artefacts) == ("failed", "permanent", [])
    assert said in row.error_message
