"""E-mails about jobs that ended, for those who want them, each end told once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select

from monolith.accounts import users
from monolith.db.engine import read_session
from monolith.db.models import Job
from monolith.job_types.registry import find, fixed
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.ledger.lifecycle import Claim, Failure, claim, fail, submit, succeed
from monolith.runner.ledger.outcomes import Outcome
from monolith.runner.webhooks.outbox import Outbox
from tests.support.callers import Caller


@pytest.fixture(autouse=True)
def mail_server(intray_settings: Callable[..., None]) -> None:
    intray_settings(SMTP_URL="smtp://mail.example.org", MAIL_FROM="intray@example.org")


def end(alice: Caller, how: str, type_name: str = "trial_echo", **params: object) -> str:
    job = submit(alice.user.id, [JobSpec(find(type_name), dict(params))])[0]
    mine = claim(job.id, "w")
    assert isinstance(mine, Claim)
    if how == "finished":
        assert succeed(mine, Outcome({}))
    else:
        assert fail(mine, Failure("trial", "The file is broken.", permanent=True), fixed(1))
    return job.id


def mails() -> list[dict]:
    for _ in Outbox().read():
        pass
    with read_session() as session:
        return list(session.scalars(select(Job.params).where(Job.type == "email").order_by(Job.created_at)))


@pytest.mark.parametrize(
    ("failed", "done", "subjects"),
    [
        (True, False, ["trial_echo failed"]),
        (False, True, ["trial_echo is done"]),
        (True, True, ["2 of your jobs have finished"]),
        (False, False, []),
    ],
)
def test_one_gets_an_email_for_what_one_chose(alice: Caller, bob: Caller, failed: bool, done: bool, subjects: list[str]) -> None:
    end(alice, "finished")  # before the choice
    users.choose_mail(alice.user, failed=failed, done=done)
    end(alice, "finished")
    end(alice, "failed")
    end(bob, "failed")
    told = mails()
    assert [one["subject"] for one in told] == subjects
    assert all(one["to"] == ["alice@example.org"] for one in told)
    assert mails() == told, "each end is told once"
    assert failed is False or "The file is broken." in told[0]["text"]


def test_an_email_that_fails_is_not_told_by_email(alice: Caller) -> None:
    users.choose_mail(alice.user, failed=True, done=True)
    end(alice, "failed", "email", to=["x@example.org"], subject="x", text="x")
    assert len(mails()) == 1


def test_without_a_mail_server_none_is_written(alice: Caller, intray_settings: Callable[..., None]) -> None:
    users.choose_mail(alice.user, failed=True, done=True)
    intray_settings(SMTP_URL="")
    end(alice, "failed")
    assert mails() == []


def test_many_ends_are_one_email(alice: Caller) -> None:
    users.choose_mail(alice.user, failed=False, done=True)
    for _ in range(23):
        end(alice, "finished")
    (told,) = mails()
    assert told["subject"] == "23 of your jobs have finished" and "and 3 more" in told["text"]
