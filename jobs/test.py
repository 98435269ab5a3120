"""Test a project: run its tests in a sandbox, and tell what became of each."""

from __future__ import annotations

from typing import Any

from monolith.config import settings
from monolith.job_types.registry import Job, fixed, job_type

from .tools.project import commands, junit_report
from .tools.project.commands import ProjectParams
from .tools.project.terminal_text import fitting
from .tools.sandbox import launch, run

NO_REPORT = "The tests wrote no JUnit XML, so the outcome of each test is only in the log."


@job_type(
    params=ProjectParams,
    alternatives=("files",),
    max_attempts=2,
    backoff=fixed(5),
    timeout=settings().sandbox_seconds + 60,
    available=launch.why_off,
)
def test(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Run the tests of a software project (zip or tar.gz).

    Runs the tests in a sandbox without network access: the commands in `intray.toml`, or else pytest, `npm test` or `make test`.
    Returns the exit code, the log and, from JUnit XML, the outcome of each test. Failing tests are a result, not a failed job.
    """
    with commands.unpacked(job, params) as project:
        plan = commands.plan("test", project)
        outcome = run.run(job, project, plan, junit_report.MAX_XML, "testing")
    job.progress(95, "counting the results")
    cases, note = _cases(outcome.files)
    if note is None:
        job.attach("junit.xml", next(iter(outcome.files.values())), "application/xml")
    shown = fitting(sorted(cases, key=lambda one: one["outcome"] in ("passed", "skipped")))
    report = outcome.report(job)
    return {
        "kind": plan.kind,
        **report,
        "totals": junit_report.totals(cases),
        "cases": shown,
        "cases_left_out": len(cases) - len(shown),
        "note": note,
    }


def _cases(files: dict[str, bytes]) -> tuple[list[dict[str, Any]], str | None]:
    """What became of each test, and what is to be said of that."""
    if not files:
        return [], NO_REPORT
    try:
        return junit_report.cases(next(iter(files.values()))), None
    except junit_report.BadReport as error:
        return [], f"The tests' JUnit XML cannot be read: {error}."
