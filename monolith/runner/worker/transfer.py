"""Claims and endings as bytes: they travel between the hook process, which has the ledger's connection, and the children.

They are made of plain values: nothing that a job function leaves can run code in the process that reads it.
"""

from __future__ import annotations

import marshal
from typing import Any

from monolith.job_types import registry
from monolith.runner.ledger.guarded_update import RETURNED, JobRecord
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.ledger.lifecycle import Claim, RunEnding
from monolith.runner.ledger.outcomes import Outcome

_FIELDS = len(RETURNED)


def pack_claim(claim: Claim) -> bytes:
    return marshal.dumps((claim.attempt, claim.job[:_FIELDS]))


def unpack_claim(packed: bytes) -> Claim:
    attempt, fields = marshal.loads(packed)
    job = JobRecord(*fields)
    return Claim(job.id, job.claims, attempt, job)


def pack_ending(ending: RunEnding) -> bytes | None:
    """None where a job function left something that is no plain value, such as a subclass of str: its own process records it."""
    try:
        return marshal.dumps(_plain(ending))
    except ValueError:
        return None


def _plain(ending: RunEnding) -> tuple[Any, ...]:
    outcome = ending.outcome and (
        ending.outcome.files,
        [{**vars(one), "type": one.type.name} for one in ending.outcome.follow_ups],
        ending.outcome.decision,
    )
    otherwise = ending.otherwise and _plain(ending.otherwise)
    return ending.event, ending.job_id, ending.number, ending.began_at, ending.params, outcome, otherwise


def unpack_ending(packed: bytes) -> RunEnding:
    """Raises `Invalid` for a follow-up whose job type does not exist."""
    return _ending(*marshal.loads(packed))


def _ending(event: str, job_id: str, number: int, began_at: float, params: dict[str, Any], outcome: Any, otherwise: Any) -> RunEnding:
    if outcome:
        files, follow_ups, decision = outcome
        specs = [JobSpec(**{**one, "type": registry.find(one["type"])}) for one in follow_ups]
        outcome = Outcome(None, [tuple(file) for file in files], specs, decision)
    return RunEnding(event, job_id, number, began_at, params, outcome, otherwise and _ending(*otherwise))
