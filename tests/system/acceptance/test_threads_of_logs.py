"""One request can be followed by its id through the logs of all processes; and the clock says now and then how things stand."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.support.processes import Intray


def lines(intray: Intray) -> list[dict[str, Any]]:
    return [json.loads(line) for line in intray.output().splitlines() if line.startswith("{")]


def test_a_request_and_its_job_are_one_thread_through_web_and_worker_and_every_line_is_json(new_intray: Callable[..., Intray]) -> None:
    intray = new_intray(LOG_FORMAT="json", JOB_PACKAGES="jobs,tests.trial_jobs", LOG_LEVEL="INFO").start()
    intray.wait_until(lambda: any(line["event"] == "statistics" for line in lines(intray)))  # before anything waits
    headers = {"Authorization": f"Bearer {intray.token()}", "Content-Type": "application/json", "X-Request-Id": "followed-42"}
    body = json.dumps({"type": "trial_second_time"}).encode()
    request = urllib.request.Request(f"{intray.base_url}/api/v1/jobs", body, headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        job_id = json.load(answer)["id"]
    intray.wait_until(lambda: any(line["event"] == "job_finished" for line in lines(intray)))
    thread = [line for line in lines(intray) if line.get("request_id") == "followed-42"]
    web = [line for line in thread if line["process"] == "web"]
    assert [(line["event"], line["status"], line["job_ids"]) for line in web] == [("request", 202, [job_id])]
    worker = [line for line in thread if line["process"] == "worker"]
    assert {line["job_id"] for line in worker} == {job_id}
    assert [(line["event"], line["attempt"]) for line in worker] == [
        ("job_started", 1),
        ("attempt_failed", 1),
        ("job_started", 2),
        ("job_finished", 2),
    ]
    assert all({"event", "level", "timestamp", "process"} <= set(line) for line in lines(intray))
    intray.wait_until(lambda: sum(line["event"] == "statistics" for line in lines(intray)) >= 2)
    first, second = [line for line in lines(intray) if line["event"] == "statistics"][:2]
    assert (first["process"], first["waiting"], first["oldest_waiting_s"], second["workers"]) == ("clock", 0, 0.0, 1)
    assert {"started", "finished", "failed"} <= set(second)
    plain = [line for line in intray.output().splitlines() if not line.startswith("{")]
    assert [line for line in plain if job_id in line or "Traceback" in line] == []
