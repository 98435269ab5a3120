"""The page of a job in words, and its result to take along, on each database."""

from __future__ import annotations

import re
from typing import Any

import pytest

from monolith.db.engine import write_session, write_transaction
from monolith.db.models import Artefact
from monolith.runner.ledger import lifecycle, pauses
from monolith.runner.ledger.audit import Actor
from monolith.runner.scheduler import clock
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.jobs import submit_job

JARGON = re.compile(r"\b(redis|ledger|claim|parked|scheduled|queued)", re.IGNORECASE)


@pytest.fixture(autouse=True)
def ticking(intray_settings: Any) -> None:
    """What is due later is told with its time only where a clock runs."""
    clock.Clock(lambda: False, "a clock of the tests").tick()


def told(caller: Caller, job: dict[str, Any]) -> str:
    """The words of the main part of the job's page."""
    page = caller.get(f"/jobs/{job['id']}").text
    return words(page[page.index('id="job-main"') : page.index('id="job-side"')])


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html[html.index(">") + 1 :]).split())


def set_job(**values: Any) -> None:
    with write_transaction() as connection:
        said = ", ".join(f"{name} = {value}" for name, value in values.items())
        connection.exec_driver_sql(f"UPDATE jobs SET {said}")


def test_a_job_that_is_tried_again_says_when_and_why(alice: Caller) -> None:
    job = submit_job(alice, "trial_second_time")
    execute.run(job["id"])
    assert re.search(r"Will retry Attempt 1 of 3 failed: not yet\. Next attempt at [\d:]+ UTC \.", told(alice, job))
    set_job(attempt=2, error_message="'The site answered 503. Ask later.'", run_at="run_at + 7200")
    assert re.search(r"Attempt 2 of 3 failed: The site answered 503\. Ask later\. Next attempt at \d\d:\d\d UTC \.", told(alice, job))


def test_what_happened_stands_in_the_timeline_in_words(alice: Caller) -> None:
    job = submit_job(alice, "trial_second_time")
    for _ in range(2):
        execute.run(job["id"])
        set_job(status="'queued' WHERE status = 'scheduled'")
    page = words(alice.get(f"/jobs/{job['id']}").text)
    for one in ("Submitted", "Started", "Attempt 1 failed", "not yet", "Attempt 2 started", "Done"):
        assert one in page, page


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"delay": 60}, r"Starts at [\d:]+ UTC"),
        ({"delay": 7200}, r"Starts at \d\d:\d\d UTC \."),
        ({"delay": 200_000}, r"Starts on \d+ \w+ \d{4}, "),
        ({}, "Saved. No worker is running right now; your job will start automatically."),
    ],
)
def test_a_job_that_waits_says_why_without_jargon(alice: Caller, wanted: dict[str, Any], said: str) -> None:
    found = told(alice, submit_job(alice, **wanted))
    assert re.search(said, found), found
    assert not JARGON.search(found.removeprefix("Scheduled")), found


def test_a_job_that_is_paused_says_so_with_the_reason(alice: Caller, admin: Caller) -> None:
    job = submit_job(alice)
    pauses.pause("type:trial_echo", "The archive moves house", Actor(admin.user.email))
    pauses.active_in.cache_clear()
    assert "Paused: The archive moves house." in told(alice, job)


def test_a_job_on_hold_says_until_when(alice: Caller) -> None:
    job = submit_job(alice, "trial_later")
    execute.run(job["id"])
    assert re.search(r"Snoozed OpenAI asked for a pause.* Resumes at [\d:]+ UTC \.", told(alice, job))


def test_how_long_it_may_take_is_said_when_enough_such_jobs_were_done(alice: Caller) -> None:
    for number in range(3):
        assert "Usually takes" not in told(alice, submit_job(alice, delay=60)), number
        execute.run(submit_job(alice)["id"])
    set_job(started_at="ended_at - 21 WHERE status = 'finished'")
    job = submit_job(alice)
    assert "Usually takes about 20 seconds." in told(alice, job)
    lifecycle.claim(job["id"], "w")
    assert re.search(r"About 20 seconds left\.", told(alice, job))
    set_job(started_at="started_at - 100 WHERE status = 'started'")
    assert "This is taking longer than usual: most jobs take up to about 20 seconds." in told(alice, job)


def test_progress_that_nobody_knows_is_shown_as_such(alice: Caller) -> None:
    job = submit_job(alice)
    lifecycle.claim(job["id"], "w")
    bar = re.compile(r"<progress[^>]*>")
    assert "value=" not in bar.findall(alice.get(f"/jobs/{job['id']}").text)[0]
    set_job(progress=40, progress_note="'reading'")
    assert 'value="40.0"' in bar.findall(alice.get(f"/jobs/{job['id']}").text)[0]


# ---- results to take along


def finished(caller: Caller, value: Any) -> dict[str, Any]:
    job = submit_job(caller, params={"value": value})
    execute.run(job["id"])
    return job


def test_a_result_is_taken_along_as_json_and_as_markdown(alice: Caller) -> None:
    job = finished(alice, {"summary": "It is fine.", "cases": [{"name": "a", "ok": True}, {"name": "b|c", "ok": False}], "log": "one\ntwo"})
    as_json = alice.get(f"/jobs/{job['id']}/result.json")
    assert as_json.json == alice.get(job["links"]["result"]).json
    assert as_json.headers["Content-Disposition"] == f"attachment; filename=result-{job['id'][:8]}.json"
    text = alice.get(f"/jobs/{job['id']}/result.md").text
    assert text.startswith("# Trial echo\n\n*Trial echo, done on ")
    for part in ("- **Summary**: It is fine.", "| Name | Ok |\n| --- | --- |\n| a | yes |\n| b\\|c | no |", "```\none\ntwo\n```"):
        assert part in text, text


def test_a_program_asks_for_markdown_by_format_or_accept(alice: Caller) -> None:
    url = finished(alice, 1)["links"]["result"]
    by_format, by_accept = alice.get(f"{url}?format=md"), alice.get(url, headers={"Accept": "text/markdown"})
    assert by_format.text == by_accept.text and by_accept.mimetype == "text/markdown"
    assert alice.get(url, headers={"Accept": "*/*"}).mimetype == "application/json"
    assert alice.get(f"{url}?format=pdf").status_code == 422


def test_what_strangers_wrote_means_nothing_in_markdown(alice: Caller) -> None:
    hostile = {"a": "<script>x</script> [l](javascript:x) # no", "b": ["* star", "`code`"], "c": "```\n</pre>\n```\n# end"}
    text = alice.get(f"/jobs/{finished(alice, hostile)['id']}/result.md").text
    assert "- **A**: \\<script\\>x\\</script\\> \\[l\\](javascript:x) \\# no" in text
    assert "- \\* star\n- \\`code\\`" in text
    assert "````\n```\n</pre>\n```\n# end\n````" in text


def test_markdown_that_the_job_itself_attached_is_its_markdown(alice: Caller) -> None:
    job = finished(alice, 1)
    with write_session() as session:
        session.add(Artefact(job_id=job["id"], name="own.md", media_type="text/markdown; charset=utf-8", size=5, content=b"# Own"))
    assert alice.get(f"/jobs/{job['id']}/result.md").data == b"# Own"


@pytest.mark.parametrize("form", ["json", "md"])
def test_there_is_no_result_before_the_end_nor_for_others(alice: Caller, bob: Caller, form: str) -> None:
    job = submit_job(alice)
    assert alice.get(f"/jobs/{job['id']}/result.{form}").status_code == 409
    execute.run(job["id"])
    assert bob.get(f"/jobs/{job['id']}/result.{form}").status_code == 404
    assert alice.get(f"/jobs/{job['id']}/result.{form}").status_code == 200
