"""Write docs/job-types.md from the declarations in jobs/: `.venv/bin/python -m tools.job_types`."""

from __future__ import annotations

from pathlib import Path

from monolith import config
from monolith.job_types import registry
from monolith.job_types.registry import Automatic, JobType
from monolith.web.schemas import params_schema

FILE = Path(__file__).resolve().parent.parent / "docs" / "job-types.md"
HEAD = """# Job types

Made from the declarations in `jobs/` by `python -m tools.job_types`; do not edit.

Variables of the environment change the figures of one type, such as `ANALYZE_MAX_ATTEMPTS=5`. A type with a value that cannot be used is
off, and says so: `manage.py doctor` names the variable.

| Variable | Meaning |
|---|---|
{overrides}
"""
OVERRIDES = {
    "max_attempts": "attempts in all, 1 or more",
    "timeout": "seconds that one attempt may run, 1 or more",
    "backoff": "seconds before the second attempt, above 0",
    "max_running": "how many of its jobs may run at once; 0: no limit",
    "max_running_per_user": "how many jobs of one user; 0: no limit",
    "rate": "how many of its jobs may start, such as `60/m`, `10/s` or `1000/h`; empty: no limit",
    "rate_per_user": "how many jobs of one user may start; empty: no limit",
}


def markdown() -> str:
    """All job types that stand in jobs/, in alphabetical order."""
    found = [one for one in registry.discover().values() if one.function.__module__.startswith("jobs.")]
    overrides = "\n".join(f"| `<TYPE>_{name.upper()}` | {OVERRIDES[name]} |" for name in config.OVERRIDES)
    return "\n".join([HEAD.format(overrides=overrides), *(_section(one) for one in found)])


def _section(job_type: JobType) -> str:
    facts = [
        ("Queue", f"`{job_type.queue}`"),
        ("Takes", _takes(job_type)),
        ("Attempts", f"{job_type.max_attempts}, backoff {job_type.backoff} s"),
        ("Timeout", f"{job_type.timeout} s an attempt"),
        *([("Automatic", _automatic(job_type.automatic))] if job_type.automatic else []),
        *([("Preview", "first values, in the answer to the submission (`preview`)")] if job_type.preview else []),
        *([("The same work", "is the same job: its id is made from it")] if job_type.identity else []),
        *([("Highest priority", f"{job_type.highest_priority}, for everybody")] if job_type.highest_priority else []),
        *([("Submitted by", "admins, or by other jobs as their follow-up")] if job_type.submittable_by == "admin" else []),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts)])
    return f"## `{job_type.name}`\n\n{job_type.description}\n\n{table}\n\n{_params(job_type)}\n"


def _automatic(rule: Automatic) -> str:
    return f"for documents of the kind {' or '.join(rule.kinds)}, with priority {rule.priority}, after {rule.delay:g} s"


def _takes(job_type: JobType) -> str:
    return " or ".join(
        [f"a {job_type.takes}" if job_type.takes == "document" else job_type.takes, *(f"`{name}`" for name in job_type.alternatives)]
    )


def _params(job_type: JobType) -> str:
    schema = params_schema(job_type)
    rows = []
    for name, one in schema["properties"].items():
        needed = "required" if name in schema.get("required", []) else f"default `{one['default']}`" if "default" in one else "optional"
        rows.append(f"| `{name}` | {_type(one)} | {needed} | {one.get('description', '')} |")
    return "\n".join(["| Param | Type | | Meaning |", "|---|---|---|---|", *rows]) if rows else "No params."


def _type(schema: dict[str, object]) -> str:
    given = schema.get("type", "any")
    return " or ".join(str(one) for one in given) if isinstance(given, list) else str(given)


if __name__ == "__main__":
    FILE.write_text(markdown())
