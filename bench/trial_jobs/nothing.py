"""A job that does nothing: what is measured is what happens around it."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields

from monolith.job_types.registry import Job, job_type


class Params(Schema):
    number = fields.Integer(load_default=0)


@job_type(params=Params, takes="nothing", timeout=20)
def bench_nothing(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Give back its params."""
    return params
