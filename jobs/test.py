"""Test a project: run its tests in a sandbox, and tell what became of each."""

from __future__ import annotations

from typing import Any

from jobs.tools import confined, junit, opening, projects
from jobs.tools.printed import fitting
from jobs.tools.projects import ProjectParams
from monolith.config import settings
from monolith.runner.registry import Job, fixed, job_type

NO_REPORT = "The tests wrote no JUnit XML, so what became of each is in the log only."


@job_type(
    params=ProjectParams,
    alternatives=("files",),
    max_attempts=2,
    backoff=fixed(5),
    timeout=settings().sandbox_seconds + 60,
    available=opening.why_off,
)
def test(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Test a project.

    Runs the project's tests in a sandbox without a network: what its `intray.toml` declares, pytest, `npm test` or `make test`. Gives
    the exit code, the log and, from JUnit XML, what became of each test. Tests that fail are a result, not a failed job.
    """
    with projects.unpacked(job, params) as project:
        plan = projects.plan("test", project)
        outcome = confined.run(job, project, plan, junit.MAX_XML, "testing")
    job.progress(95, "counting")
    cases, note = _cases(outcome.files)
    if note is None:
        job.attach("junit.xml", next(iter(outcome.files.values())), "application/xml")
    shown = fitting(sorted(cases, key=lambda one: one["outcome"] in ("passed", "skipped")))
    report = outcome.report(job)
    return {
        "kind": plan.kind,
        **report,
        "totals": junit.totals(cases),
        "cases": shown,
        "cases_left_out": len(cases) - len(shown),
        "note": note,
    }


def _cases(files: dict[str, bytes]) -> tuple[list[dict[str, Any]], str | None]:
    """What became of each test, and what is to be said of that."""
    if not files:
        return [], NO_REPORT
    try:
        return junit.cases(next(iter(files.values()))), None
    except junit.BadReport as error:
        return [], f"The tests' JUnit XML cannot be read: {error}."
