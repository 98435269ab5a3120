"""NaN and infinity, which JSON does not have: what a job leaves of them is refused or unknown, and no reader ever meets one."""

from __future__ import annotations

import json
import zipfile
from typing import Any

import pytest
from sqlalchemy import text, update

from monolith.db.engine import get_engine, write_session, write_transaction
from monolith.db.models import Job
from monolith.documents import zip_export
from monolith.runner.webhooks import payloads
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.jobs import stored, submit_job

pytestmark = pytest.mark.databases


def strict(text: str) -> Any:
    """What a parser makes of it that knows JSON only."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("where", ["result", "cost", "score", "delay", "params"])
def test_a_job_that_leaves_no_number_fails_and_says_so(alice: Caller, where: str) -> None:
    job = submit_job(alice, "trial_not_a_number", params={"value": where})
    execute.run(job["id"])
    row = stored(job["id"])
    assert (row.status, row.progress, row.progress_note) == ("failed", None, "dividing")
    assert any(word in row.error_message for word in ("JSON", "finite number", "number of seconds", "convert float")), row.error_message


def test_what_an_earlier_version_stored_is_null_for_every_reader(alice: Caller) -> None:
    job = submit_job(alice)
    execute.run(job["id"])
    with write_session() as session:
        session.execute(update(Job).values(usd=float("inf"), progress=float("-inf")))
    if get_engine().dialect.name == "sqlite":  # PostgreSQL refuses it in JSON
        with write_transaction() as connection:
            connection.execute(text('UPDATE jobs SET result = \'{"mean": NaN, "all": [1, Infinity]}\''))
    shown = strict(alice.get(job["links"]["self"]).text)
    assert (shown["progress"], shown["cost"]["usd"]) == (None, None)
    strict(alice.get("/api/v1/jobs").text)
    strict(alice.get(job["links"]["result"]).text)
    told = [line.removeprefix("data: ") for line in alice.get(job["links"]["events"]).text.splitlines() if line.startswith("data: ")]
    assert {strict(one)["progress"] for one in told} == {None}
    with write_session() as session:
        row = session.execute(payloads.jobs().where(Job.id == job["id"])).one()
        strict(payloads.of_ending("w", row, "finished", 0).body)
    with zip_export.results(alice.user, [job["id"]]) as file, zipfile.ZipFile(file) as packed:
        strict(packed.read(next(name for name in packed.namelist() if name.endswith(".json"))).decode())
