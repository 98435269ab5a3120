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

from monolith.runner.ledger.guarded_update import RETURNED, JobRecord
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
    outcome = ending.outcome and ending.outcome.plain()
    otherwise = ending.otherwise and _plain(ending.otherwise)
    return (
        ending.event,
        ending.job_id,
        ending.number,
        ending.attempt,
        ending.began_at,
        ending.params,
        outcome,
        otherwise,
        ending.has_consequences,
    )


def ending_to_json(ending: RunEnding) -> bytes:
    """For a file that another version of Intray may read. Raises TypeError or ValueError for what is no plain value."""
    *first, outcome, otherwise, has_consequences = _plain(ending)
    if outcome:
        files, *rest = outcome
        outcome = [(name, kind, b64encode(content).decode()) for name, kind, content in files], *rest
    return json.dumps({"boot": _boot_id(), "ending": (*first, outcome, otherwise, has_consequences)}).encode()


def ending_from_json(content: bytes) -> RunEnding:
    """Raises ValueError, TypeError or KeyError for what `ending_to_json` did not write, `Invalid` for a follow-up of an unknown type."""
    kept = json.loads(content)
    event, job_id, number, attempt, began_at, params, outcome, otherwise, has_consequences = kept["ending"]
    if outcome:
        files, *rest = outcome
        outcome = [(name, kind, b64decode(file)) for name, kind, file in files], *rest
    if kept["boot"] != _boot_id():
        began_at = math.inf  # of a clock that has begun anew: the job appears to have taken no time
    return _ending((event, job_id, number, attempt, began_at, params, outcome, otherwise, has_consequences))


@cache
def _boot_id() -> str:
    """The run of this machine that its monotonic clock belongs to."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def unpack_ending(packed: bytes) -> RunEnding:
    """Raises `Invalid` for a follow-up whose job type does not exist."""
    return _ending(marshal.loads(packed))


def _ending(plain: tuple[Any, ...]) -> RunEnding:
    event, job_id, number, attempt, began_at, params, outcome, otherwise, has_consequences = plain
    outcome = outcome and Outcome.of_plain(outcome)
    return RunEnding(event, job_id, number, attempt, began_at, params, outcome, otherwise and _ending(otherwise), has_consequences)
