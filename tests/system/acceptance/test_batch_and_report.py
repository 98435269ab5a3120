"""The job type of the README, run in a batch, and then reported: real processes, through HTTP."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pypdf import PdfReader

from tests.support.processes import ROOT, Intray, until

MAX_LINES = 15
README_TYPE = re.search(r"```python\n(.*?@job_type.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


class Office:
    """An installation with a package of job types beside ours, as an adopter has it."""

    def __init__(self, intray: Intray) -> None:
        self.intray = intray
        self.users = {name: {"Authorization": f"Bearer {intray.token(intray.user(f'{name}@example.org'))}"} for name in ("alice", "bob")}
        self.users["admin"] = {"Authorization": f"Bearer {intray.token()}"}

    def ask(self, user: str, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, f"{self.intray.base_url}{path}", headers=self.users[user], timeout=40, **options)

    def over(self, user: str, path: str, is_over: str) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            found: dict[str, Any] = self.ask(user, "get", path, params={"wait": 10}).json()
            return found

        until(lambda: bool(read()[is_over]), 60, lambda: f"{read()}\n{self.intray.output()[-3000:]}")
        return read()

    def report(self, user: str, **params: Any) -> tuple[dict[str, Any], list[dict[str, str]], str]:
        """The result, the rows of the CSV and the words of the PDF."""
        job = self.ask(user, "post", "/api/v1/jobs", json={"type": "report", "params": params}).json()
        done = self.over(user, job["links"]["self"], "ended_at")
        files = {one["name"]: self.ask(user, "get", one["url"]).content for one in done["artifacts"]}
        rows = list(csv.DictReader(io.StringIO(files["report.csv"].decode("utf-8-sig"))))
        return done["result"], rows, "".join(page.extract_text() for page in PdfReader(io.BytesIO(files["report.pdf"])).pages)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    project = tmp_path_factory.mktemp("project")
    assert README_TYPE
    (project / "adopted").mkdir()
    (project / "adopted" / "__init__.py").touch()
    (project / "adopted" / "word_count.py").write_text(README_TYPE[1])
    settings = {"PYTHONPATH": str(project), "JOB_PACKAGES": "jobs,adopted,tests.trial_jobs"}
    with Intray(tmp_path_factory.mktemp("intray") / "home", settings) as one:
        yield Office(one.start())


def lines_of(path: Path) -> int:
    return len([line for line in path.read_text().splitlines() if line.strip()])


def test_the_job_type_of_the_readme_is_short_and_has_its_api_form_and_validation(office: Office) -> None:
    assert lines_of(next(Path(office.intray.settings["PYTHONPATH"]).glob("adopted/w*.py"))) <= MAX_LINES
    declared = office.ask("alice", "get", "/api/v1/job-types/word_count").json()
    assert (declared["title"], declared["schema"]["properties"]["top"]["default"]) == ("Count the words of a document", 10)
    wrong = office.ask("alice", "post", "/api/v1/documents", json={"text": "a", "jobs": [{"type": "word_count", "params": {"top": "x"}}]})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/jobs/0/params/top")


def test_several_files_and_types_run_as_one_and_what_failed_is_retried(office: Office) -> None:
    files = [("files", (name, content)) for name, content in (("a.txt", b"to be or not to be"), ("b.md", b"# B"), ("c.gif", b"GIF89a"))]
    count, bad = '{"type": "word_count", "params": {"top": 2}}', "trial_permanent"
    batch = office.ask("alice", "post", "/api/v1/batches", files=files, data={"jobs": [count, bad]}).json()
    assert [one["name"] for one in batch["refused"]] == ["c.gif"]
    done = office.over("alice", batch["url"], "is_over")
    assert (done["progress"], done["counts"]["finished"], done["counts"]["failed"]) == (100, 2, 2)
    first = office.ask("alice", "get", f"{done['jobs'][0]['links']['self']}/result").json()
    assert first == {"words": 6, "most_common": [["to", 2], ["be", 2]]}
    assert office.ask("alice", "post", batch["links"]["retry"]).json()["requeued"] == 2
    assert office.over("alice", batch["url"], "is_over")["counts"]["failed"] == 2
    assert office.ask("bob", "get", batch["url"]).status_code == 404


def test_what_ran_is_reported_to_its_owner_and_to_admins(office: Office) -> None:
    mine, rows, said = office.report("alice", types=["word_count", "trial_permanent"])
    assert (mine["jobs"], mine["finished"], mine["failed"], mine["failure_rate"]) == (4, 2, 2, 0.5)
    assert sorted((row["type"], row["document"], row["owner"]) for row in rows) == [
        (kind, name, "alice@example.org") for kind in ("trial_permanent", "word_count") for name in ("a.txt", "b.md")
    ]
    assert all(one in said for one in ("word_count", "50.0 %", "alice@example.org"))
    theirs, rows, said = office.report("bob", days=7)
    assert (theirs["jobs"], rows) == (0, []) and "No jobs in this period" in said
    of_alice, _, said = office.report("admin", owner="alice@example.org")
    assert of_alice["jobs"] == 5 and "word_count" in said  # and her report
    assert office.ask("bob", "post", "/api/v1/jobs", json={"type": "report", "params": {"owner": "alice@example.org"}}).status_code == 422
