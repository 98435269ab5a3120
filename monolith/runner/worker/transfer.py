"""Claims and endings as bytes: they travel between the hook process, which has the ledger's connection, and the children.

They are made of plain values: nothing that a job function leaves can run code in the process that reads it.
"""

from __future__ import annotations

import json
import marshal
import math
from base64 import b64decode, b64encode
from functools import cache
from pathlib import Path
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
    return ending.event, ending.job_id, ending.number, ending.attempt, ending.began_at, ending.params, outcome, otherwise


def ending_to_json(ending: RunEnding) -> bytes:
    """For a file that another version of Intray may read. Raises TypeError or ValueError for what is no plain value."""
    event, job_id, number, attempt, began_at, params, outcome, otherwise = _plain(ending)
    if outcome:
        files, *rest = outcome
        outcome = [(name, kind, b64encode(content).decode()) for name, kind, content in files], *rest
    return json.dumps({"boot": _boot_id(), "ending": (event, job_id, number, attempt, began_at, params, outcome, otherwise)}).encode()


def ending_from_json(content: bytes) -> RunEnding:
    """Raises ValueError, TypeError or KeyError for what `ending_to_json` did not write, `Invalid` for a follow-up of an unknown type."""
    kept = json.loads(content)
    event, job_id, number, attempt, began_at, params, outcome, otherwise = kept["ending"]
    if outcome:
        files, *rest = outcome
        outcome = [(name, kind, b64decode(file)) for name, kind, file in files], *rest
    if kept["boot"] != _boot_id():
        began_at = math.inf  # of a clock that has begun anew: the job appears to have taken no time
    return _ending(event, job_id, number, attempt, began_at, params, outcome, otherwise)


@cache
def _boot_id() -> str:
    """The run of this machine that its monotonic clock belongs to."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def unpack_ending(packed: bytes) -> RunEnding:
    """Raises `Invalid` for a follow-up whose job type does not exist."""
    return _ending(*marshal.loads(packed))


def _ending(
    event: str, job_id: str, number: int, attempt: int, began_at: float, params: dict[str, Any], outcome: Any, otherwise: Any
) -> RunEnding:
    if outcome:
        files, follow_ups, decision = outcome
        specs = [JobSpec(**{**one, "type": registry.find(one["type"])}) for one in follow_ups]
        outcome = Outcome(None, [tuple(file) for file in files], specs, decision)
    return RunEnding(event, job_id, number, attempt, began_at, params, outcome, otherwise and _ending(*otherwise))
