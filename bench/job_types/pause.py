"""A job type that holds its process for a while, as a job that computes does."""

from __future__ import annotations

import time
from typing import Any

from marshmallow import Schema, fields
from marshmallow.validate import Range

from monolith.job_types.registry import Job, job_type


class Seconds(Schema):
    seconds = fields.Float(required=True, validate=Range(0, 60))


@job_type(params=Seconds, takes="nothing", timeout=120)
def bench_pause(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Sleep."""
    time.sleep(params["seconds"])
    return {}
