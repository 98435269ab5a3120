"""What must be so after the last fault: everything accepted is over as its kind demands, and applied its effects once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from monolith.db.models import OVER
from tests.support.chaos.ledger import Pages
from tests.support.chaos.load import FAILS

ATTEMPTS = {"chaos_second_time": 2, "chaos_raise": 2}  # all others: 1; no fault may spend one
CRASHES = ("chaos_segfault", "chaos_wait_segfault")
EVENTS_OF_THE_END = ("finished", "failed")


@dataclass
class Verdict:
    """What was found wrong, by kind, with the jobs it was found at; and the poison that our own kills made."""

    wrong: dict[str, list[str]] = field(default_factory=dict)
    poisoned_by_us: list[str] = field(default_factory=list)

    def add(self, kind: str, *offenders: str) -> None:
        self.wrong.setdefault(kind, []).extend(offenders)


def judge(pages: Pages, accepted: dict[str, str], runs: Counter[tuple[str, int]]) -> Verdict:
    """`accepted`: the kind of each job that was answered 2xx. `runs`: how often each claim of each job ran."""
    verdict = Verdict()
    verdict.add("lost", *(set(accepted) - set(pages.jobs)))
    verdict.add("there without an answer", *({job.id for job in pages.jobs.values() if job.parent_id is None} - set(accepted)))
    for job_id in pages.jobs:
        for wrong in _wrongs(pages, job_id, verdict):
            verdict.add(wrong, job_id)
    for (job_id, claim), times in runs.items():
        if times > 1:
            verdict.add(f"claim {claim} ran {times} times", job_id)
    verdict.wrong = {kind: offenders for kind, offenders in verdict.wrong.items() if offenders}
    return verdict


def _wrongs(pages: Pages, job_id: str, verdict: Verdict) -> Iterator[str]:
    job, events = pages.jobs[job_id], [name for _, name, _, _ in pages.events[job_id]]
    if job.status not in OVER:
        yield "not over"
        return
    if sum(name in EVENTS_OF_THE_END for name in events) != 1:
        yield "ended more than once"
    if job.error_type == "poison" and job.type not in CRASHES and job.crashes == 2:
        verdict.poisoned_by_us.append(job_id)
    elif (job.status, job.error_type) != (("failed", FAILS[job.type]) if job.type in FAILS else ("finished", None)):
        yield f"{job.type} is {job.status}, {job.error_type}"
    elif job.type not in CRASHES and job.attempt != ATTEMPTS.get(job.type, 1):
        yield f"{job.type} ended in attempt {job.attempt}"
    yield from _effects_wrong(pages, job_id)


def _effects_wrong(pages: Pages, job_id: str) -> Iterator[str]:
    job = pages.jobs[job_id]
    due = int(job.status == "finished" and job.type != "chaos_effect")
    if (pages.follow_ups[job_id], pages.files[job_id]) != (due, due):
        yield f"{job.status} with {pages.follow_ups[job_id]} follow-ups and {pages.files[job_id]} files"
    if job.status == "finished" and job.result != ({"effect_of": job_id} if due else {"parent": job.parent_id}):
        yield "a wrong result"
