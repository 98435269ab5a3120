"""The pages of everybody's jobs: what they find, and acts on many, step by step."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Job
from monolith.job_types import registry
from monolith.job_types.registry import fixed
from monolith.queue_admin import jobs_pages
from monolith.runner.admin import bulk_actions
from monolith.runner.admin.trash import Cleaning
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.audit import AuditEntry
from monolith.runner.ledger.balance import balance
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.ledger.lifecycle import Failure
from monolith.runner.queue import rq_queues
from monolith.runner.worker import execute
from tests.support.callers import Caller

pytestmark = pytest.mark.databases

Make = Callable[..., list[str]]
ACT = "/admin/jobs/act"


@pytest.fixture
def make(alice: Caller) -> Make:
    """Make jobs of Alice, or of somebody else; `fail`: that failed with this message."""

    def some(number: int = 1, name: str = "trial_echo", *, owner: Caller = alice, fail: str = "", run: bool = False) -> list[str]:
        jobs = [lifecycle.submit(owner.user.id, [JobSpec(registry.find(name), {"value": 1})])[0].id for _ in range(number)]
        for job_id in jobs:
            if run:
                execute.run(job_id)
            if fail:
                claim = lifecycle.claim(job_id, "w")
                assert claim and lifecycle.fail(claim, Failure("OSError", fail, permanent=True), fixed(1))
        return jobs

    return some


def found(admin: Caller, query: str = "") -> list[str]:
    """The ids that a page of jobs shows, in its order."""
    answer = admin.get(f"/admin/jobs?{query}")
    assert answer.status_code == 200, answer.text
    return re.findall(r'name="job" value="([^"]+)"', answer.text)


def form(page: str) -> dict[str, list[str]]:
    """What the form of a page would send."""
    fields: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page):
        fields.setdefault(name, []).append(value)
    return fields


def statuses() -> dict[str, str]:
    with read_session() as session:
        return dict(session.execute(select(Job.id, Job.status).where(Job.trash_id.is_(None))).all())


def acts() -> list[tuple[str, str, int | None]]:
    with read_session() as session:
        return [(one.act, one.subject, one.count) for one in session.scalars(select(AuditEntry).order_by(AuditEntry.id))]


def test_jobs_are_found_by_each_filter_and_by_several(admin: Caller, bob: Caller, make: Make) -> None:
    queued, failed, bobs = make(), make(fail="No route to 10.0.0.1"), make(owner=bob, run=True)
    other = make(name="trial_raise", fail="The disk is full")
    with read_session() as session:
        cause = session.scalar(select(Job.error_group).where(Job.id == failed[0]))
    everything = [*other, *bobs, *failed, *queued]
    for query, expected in (
        ("", everything),
        ("status=failed", [*other, *failed]),
        ("type=trial_raise", other),
        ("queue=default", everything),
        ("queue=mail", []),
        ("owner=BOB@example.org", bobs),
        ("owner=nobody@example.org", []),
        ("error=OSError", [*other, *failed]),
        ("error=disk+is+FULL", other),
        (f"error={cause}", failed),
        (f"text={failed[0][:8]}", failed),
        ("within=hour", everything),
        ("since=2030-01-01T00:00", []),
        ("until=2030-01-01T00:00&status=failed&error=disk", other),
        ("status=failed&owner=bob@example.org", []),
    ):
        assert found(admin, query) == expected, query


def test_documents_are_found_by_their_words(admin: Caller, alice: Caller) -> None:
    job = alice.post("/api/v1/documents", json={"text": "A zeppelin over Zurich.", "jobs": ["analyze"]}).json["jobs"][0]["id"]
    assert (found(admin, "text=zeppelin"), found(admin, "text=balloon")) == ([job], [])


def test_pages_follow_each_other_without_gap_or_double(admin: Caller, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_pages, "PAGE_ROWS", 3)
    ids = [*make(4), *make(4, name="trial_raise")][::-1]
    with write_session() as session:
        session.execute(update(Job).where(Job.id.in_(ids[2:5])).values(created_at=now()))  # three at the same moment
    seen: list[str] = []
    page = admin.get("/admin/jobs?queue=default")
    while True:
        seen += re.findall(r'name="job" value="([^"]+)"', page.text)
        older = re.search(r'rel="next" href="([^"]+)"', page.text)
        if older is None:
            break
        page = admin.get(older[1].replace("&amp;", "&"))
    assert (len(seen), set(seen)) == (8, set(ids))


@pytest.mark.parametrize("query", ["status=lost", "since=soon", "until=1e999", "after=x"])
def test_a_wrong_filter_says_what_to_mend(admin: Caller, query: str) -> None:
    assert admin.get(f"/admin/jobs?{query}").status_code == 422


def test_an_act_on_all_that_match_is_done_in_steps_with_go_on(admin: Caller, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without JavaScript: each step is a form that is sent again."""
    monkeypatch.setattr(bulk_actions, "STEP", 3)
    failed, others = make(7, fail="No answer"), make(2)
    asked = admin.get(f"{ACT}?act=requeue&all=1&error=OSError")
    assert "Retry 7 jobs?" in asked.text
    late = make(fail="No answer")  # after the question: not meant
    one = admin.post(ACT, data=form(asked.text))
    assert "<strong>3</strong> of 7" in one.text
    for job_id in failed[-3:]:  # these fail again meanwhile, and are not started again by the same act
        claim = lifecycle.claim(job_id, "w")
        assert claim and lifecycle.fail(claim, Failure("OSError", "Again", permanent=True), fixed(1))
    two = admin.post(ACT, data=form(one.text))
    assert "<strong>6</strong> of 7" in two.text
    three = admin.post(ACT, data=form(two.text))
    assert (three.status_code, three.headers["Location"]) == (303, "/admin/jobs?error=OSError")
    assert statuses() == {**dict.fromkeys([*failed[:4], *others], "queued"), **dict.fromkeys([*failed[-3:], *late], "failed")}
    assert [(act, count) for act, _, count in acts()] == [("requeue_jobs", 3), ("requeue_jobs", 3), ("requeue_jobs", 1)]
    assert "error OSError" in acts()[0][1]
    assert rq_queues.waiting_ids("default.normal") >= {*failed[:4], *others}


def test_a_step_asked_for_by_htmx_sends_the_browser_on_at_the_end(admin: Caller, make: Make) -> None:
    make()
    fields = form(admin.get(f"{ACT}?act=cancel&all=1&status=queued").text)
    answer = admin.post(ACT, data=fields, headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (204, "/admin/jobs?status=queued")


@pytest.mark.parametrize(
    ("act", "after"),
    [
        ("requeue", {"failed": "queued", "queued": "queued", "started": "started", "finished": "finished"}),
        ("cancel", {"failed": "failed", "queued": "canceled", "started": "started", "finished": "finished"}),
        ("stop", {"failed": "failed", "queued": "queued", "started": "stopped", "finished": "finished"}),
        ("clean", {"started": "started"}),
    ],
)
def test_each_act_moves_those_that_are_ticked_and_that_it_can(admin: Caller, make: Make, act: str, after: dict[str, str]) -> None:
    ids = {"failed": make(fail="No")[0], "queued": make()[0], "started": make()[0], "finished": make(run=True)[0]}
    assert lifecycle.claim(ids["started"], "w")
    make()  # not ticked
    number = 3 if act == "clean" else 1
    asked = admin.get(f"{ACT}?act={act}&" + "&".join(f"job={one}" for one in ids.values()))
    words = {"requeue": "Retry {}", "cancel": "Cancel {}", "stop": "Stop {}", "clean": "Move {} to trash"}[act]
    assert words.format("1 job" if number == 1 else f"{number} jobs") in asked.text
    assert admin.post(ACT, data=form(asked.text)).status_code == 303
    left = statuses()
    assert {was: left[job_id] for was, job_id in ids.items() if job_id in left} == after
    assert acts()[-1][2] == number
    assert balance().imbalance == 0


def test_all_steps_of_a_cleaning_are_one_in_the_bin(admin: Caller, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_actions, "STEP", 2)
    make(5, fail="No answer")
    page = admin.get("/admin/bin?status=failed&age=0&unit=days")
    assert "Move 5 jobs to trash" in page.text
    answer = admin.post(ACT, data=form(page.text))
    while answer.status_code == 200:
        answer = admin.post(ACT, data=form(answer.text))
    assert answer.headers["Location"] == "/admin/bin"
    with read_session() as session:
        assert session.scalars(select(Cleaning.id)).all() == [1]
    assert "5 jobs" in admin.get("/admin/bin").text
    admin.post("/admin/bin/1/restore")
    assert len(statuses()) == 5


@pytest.mark.parametrize("query", ["act=drop&all=1", "act=stop", "act=clean&all=1&status=started", "act=clean&all=1&status=lost"])
def test_an_act_that_is_none_is_refused(admin: Caller, make: Make, query: str) -> None:
    make()
    assert admin.get(f"{ACT}?{query}").status_code in (404, 422)


def test_a_trace_is_for_admins_and_not_for_viewers_or_its_owner(
    admin: Caller, alice: Caller, caller: Callable[..., Caller], make: Make
) -> None:
    (job_id,) = make(name="trial_permanent", run=True)
    viewer = caller("viewer@example.org", is_viewer=True)
    shown = {who: one.get(f"/jobs/{job_id}").text for who, one in {"admin": admin, "viewer": viewer, "alice": alice}.items()}
    assert {who: "Traceback (most recent" in text for who, text in shown.items()} == {"admin": True, "viewer": False, "alice": False}
    assert {who: "For admins" in text for who, text in shown.items()} == {"admin": True, "viewer": True, "alice": False}


def test_viewers_look_and_are_offered_nothing_to_act_with(caller: Callable[..., Caller], make: Make) -> None:
    make(2, fail="No answer")
    viewer = caller("viewer@example.org", is_viewer=True)
    for path in ("/admin/jobs", "/admin/failures", "/admin/bin", "/admin/bin?status=failed&age=0"):
        page = viewer.get(path)
        assert page.status_code == 200
        assert '<form method="post"' not in page.text.partition("<main")[2]
    assert viewer.post(ACT, data={"act": "requeue", "all": "1"}).status_code == 403
    assert set(statuses().values()) == {"failed"}
