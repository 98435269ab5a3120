"""A job type that does nothing: what is left is the price of a job."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields

from bench import work
from monolith.job_types.registry import Job, job_type


class Submitted(Schema):
    at = fields.Float(required=True)


@job_type(params=Submitted, takes="nothing")
def bench_noop(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Do nothing, and note when."""
    work.noop(params["at"])
    return {}
