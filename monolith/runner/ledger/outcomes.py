"""What a job leaves beside its status: result, files, follow-up jobs and the decision on its document.

All of it is written in the transaction that ends the job. For a job that failed for good, `on_failure` of its type decides it:
see `on_failure`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert, update

from monolith.config import settings
from monolith.db.engine import storable
from monolith.db.models import Artefact, Document, JobEvent
from monolith.errors import Permanent, seconds_to_wait
from monolith.job_types import registry
from monolith.runner.ledger.guarded_update import MAX_NOTE, JobRecord
from monolith.runner.ledger.insert import JobSpec, insert_jobs

MAX_RESULT_BYTES = 1024 * 1024
NAME, MEDIA_TYPE = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff/]{1,200}"), re.compile("[ -~]{1,100}")  # of a file
MAX_DELAY_S = 10 * 365 * 24 * 3600  # of a follow-up
ON_FAILURE_FAILED = "on_failure_failed"  # the event of a job
_STRICT_JSON = json.JSONEncoder(allow_nan=False, ensure_ascii=False)


@dataclass
class Outcome:
    """What a job function left: its result, files as (name, media type, content), follow-up jobs, and the decision.

    `problem`: why `on_failure` failed.
    """

    result: Any = None
    files: list[tuple[str, str, bytes]] = field(default_factory=list)
    follow_ups: list[JobSpec] = field(default_factory=list)
    decision: dict[str, Any] | None = None
    problem: str = ""

    @property
    def is_result_only(self) -> bool:
        return not self.files and not self.follow_ups and self.decision is None

    def attach(self, name: str, content: bytes, media_type: str) -> None:
        """Add a file, or replace the one of this name. Raises `Permanent` for one that cannot be stored, or exceeds the limits."""
        for what, given, allowed, rule in (
            ("name", name, NAME, "1 to 200 characters without slashes and control characters"),
            ("media type", media_type, MEDIA_TYPE, "1 to 100 ASCII characters, such as text/plain"),
        ):
            if not isinstance(given, str) or not allowed.fullmatch(given):
                raise Permanent(f"The job attached a file with the {what} {repr(given)[:60]}. The job type's developer must pass {rule}.")
        if not isinstance(content, bytes | bytearray | memoryview):
            raise Permanent(
                f"The job attached the file {name!r} as {_a(content)}. The job type's developer must pass bytes, "
                f'such as job.attach({name!r}, text.encode(), "text/plain; charset=utf-8").'
            )
        others = [file for file in self.files if file[0] != name]
        _check_room(name, len(content), others)
        self.files = [*others, (name, media_type, bytes(content))]

    def follow_up(self, type: str, params: dict[str, Any], priority: str, delay: float, document_id: str | None) -> None:
        """Add a follow-up job. Raises `Invalid` for wrong params, ValueError for a delay that is no number, and `JobTypeMissing`."""
        delay = seconds_to_wait(delay, MAX_DELAY_S)
        job_type = registry.require(type)
        loaded = job_type.load_params(params, has_document=document_id is not None)
        self.follow_ups.append(JobSpec(job_type, loaded, priority, delay, document_id))

    def decide(self, route: str, decision: str, score: int | None, *, is_defaulted: bool = False) -> None:
        """Set the decision to write on the document. Raises ValueError or OverflowError for a score that is no number."""
        whole = None if score is None else round(score)  # SQLite would store NaN and infinity in a column of integers
        self.decision = {"route": route, "decision": decision, "score": whole, "is_defaulted": is_defaulted}

    def save(self, connection: Connection, job: JobRecord) -> list[JobRecord]:
        """Write all but the result. Returns the follow-up jobs, to be pushed after the commit."""
        if self.files:
            rows = [
                {"job_id": job.id, "name": name, "media_type": kind, "size": len(file), "content": file} for name, kind, file in self.files
            ]
            connection.execute(insert(Artefact), rows)
        if self.decision and job.document_id:
            connection.execute(update(Document.__table__).where(Document.id == job.document_id).values(**self.decision))  # type: ignore[arg-type]
        if self.problem:
            note = storable(self.problem, MAX_NOTE)
            connection.execute(insert(JobEvent).values(job_id=job.id, name=ON_FAILURE_FAILED, attempt=job.attempt, note=note))
        return insert_jobs(self.follow_ups, connection=connection, owner_id=job.owner_id, parent_id=job.id, request_id=job.request_id)

    # ---- between processes: plain values, so that nothing a job function leaves can run code in the process that reads it

    def plain(self) -> tuple[Any, ...]:
        """All but the result, as plain values."""
        return self.files, [{**vars(one), "type": one.type.name} for one in self.follow_ups], self.decision, self.problem

    @classmethod
    def of_plain(cls, plain: tuple[Any, ...]) -> Outcome:
        """Raises `Invalid` for a follow-up whose job type does not exist."""
        files, follow_ups, decision, problem = plain
        specs = [JobSpec(**{**one, "type": registry.find(one["type"])}) for one in follow_ups]
        return cls(None, [tuple(file) for file in files], specs, decision, problem)


def _check_room(name: str, size: int, others: list[tuple[str, str, bytes]]) -> None:
    """Raises `Permanent` where a file is too large, or too much beside the others: they are kept in memory, and in the database."""
    limits = settings()
    in_all = size + sum(len(content) for _, _, content in others)
    for number, limit, what, setting in (
        (size, limits.max_artefact_bytes, f"The attached file {name!r} has {size:,} bytes", "MAX_ARTEFACT_BYTES"),
        (in_all, limits.max_artefact_bytes_per_job, f"With {name!r}, the job's files have {in_all:,} bytes", "MAX_ARTEFACT_BYTES_PER_JOB"),
        (len(others) + 1, limits.max_artefacts_per_job, f"With {name!r}, the job has {len(others) + 1:,} files", "MAX_ARTEFACTS_PER_JOB"),
    ):
        if number > limit:
            raise Permanent(f"{what}, over the limit of {limit:,} ({setting}). Work on less at once, or ask an admin to raise the limit.")


def _a(value: Any) -> str:
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def result_json(result: Any) -> str:
    """The result as JSON. Raises `Permanent` when it is not a dict, cannot be written as JSON, or is larger than 1 MB."""
    if not isinstance(result, dict):
        raise Permanent(f"The job returned a {type(result).__name__}, but a result must be a dict. The job type's developer must fix this.")
    try:
        text = _STRICT_JSON.encode(result)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise Permanent(f"The job's result cannot be written as JSON ({error}). The job type's developer must fix this.") from error
    if size > MAX_RESULT_BYTES:
        raise Permanent(
            f"The job's result has {size:,} bytes, over the limit of {MAX_RESULT_BYTES:,}. Its developer must attach it as a file."
        )
    return text
