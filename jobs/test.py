"""The job type `test`: runs the tests of a project in a sandbox and reports each test case."""

from __future__ import annotations

from typing import Any

from monolith.config import settings
from monolith.job_types.registry import Job, fixed, job_type

from .tools.project import commands, tool_reports
from .tools.project.commands import ProjectParams
from .tools.sandbox import launch, run
from .tools.sandbox.bwrap_command import SandboxSpec

NO_REPORT = "The tests wrote no JUnit XML, so the outcome of each test is only in the log."


@job_type(
    params=ProjectParams,
    alternatives=("files",),
    max_attempts=2,
    backoff=fixed(5),
    timeout=settings().sandbox_seconds + 60,
    available=launch.unavailable_reason,
)
def test(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Run the tests of a software project (zip or tar.gz).

    Runs the tests in a sandbox without network access: the commands in `intray.toml`, or else pytest, `npm test` or `make test`.
    Returns the exit code, the log and, from JUnit XML, the outcome of each test. Failing tests are a result, not a failed job.
    """
    with commands.unpacked_project(job, params) as project:
        plan = commands.plan("test", project)
        spec = SandboxSpec(plan.steps, plan.collect, tool_reports.MAX_REPORT, project.links)
        outcome = run.run(job, project.folder, spec, "testing")
    job.progress(95, "counting the results")
    cases, note = _cases(outcome.files)
    if note is None:
        job.attach("junit.xml", next(iter(outcome.files.values())), "application/xml")
    shown = tool_reports.fit_rows(sorted(cases, key=lambda one: one["outcome"] in ("passed", "skipped")))
    report = outcome.report(job)
    return {
        "kind": plan.kind,
        **report,
        "totals": tool_reports.count_outcomes(cases),
        "cases": shown,
        "cases_left_out": len(cases) - len(shown),
        "note": note,
    }


def _cases(files: dict[str, bytes]) -> tuple[list[dict[str, Any]], str | None]:
    """The test cases, and a note if there are none or they cannot be read."""
    if not files:
        return [], NO_REPORT
    try:
        return tool_reports.junit_cases(next(iter(files.values()))), None
    except tool_reports.BadReport as error:
        return [], f"The tests' JUnit XML cannot be read: {error}."
