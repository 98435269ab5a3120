"""The job type `lint`: runs the linter of a project in a sandbox and reports its diagnostics."""

from __future__ import annotations

from typing import Any

from monolith.config import settings
from monolith.job_types.registry import Job, fixed, job_type

from .tools.project import commands, tool_reports
from .tools.project.commands import ProjectParams
from .tools.sandbox import launch, run
from .tools.sandbox.bwrap_command import SandboxSpec

NO_REPORT = "The linter wrote no ruff or eslint JSON, so its findings are only in the log."


@job_type(
    params=ProjectParams,
    alternatives=("files",),
    max_attempts=2,
    backoff=fixed(5),
    timeout=settings().sandbox_seconds + 60,
    available=launch.unavailable_reason,
)
def lint(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Check the code of a software project (zip or tar.gz).

    Runs the project's linter in a sandbox without network access: the commands in `intray.toml`, or else ruff, the project's own
    eslint, `npm run lint` or `make lint`. Returns the exit code, the log and each ruff or eslint finding with its location and source
    line. Findings are a result, not a failed job.
    """
    with commands.unpacked_project(job, params) as project:
        plan = commands.plan("lint", project)
        spec = SandboxSpec(plan.steps, plan.collect, tool_reports.MAX_REPORT, project.links)
        outcome = run.run(job, project.folder, spec, "linting")
        job.progress(95, "reading the findings")
        found, note = _diagnostics(outcome.files)
        shown = tool_reports.fit_rows(tool_reports.with_source_lines(found, project.given))
    report = outcome.report(job)
    totals = {severity: sum(one["severity"] == severity for one in found) for severity in ("error", "warning")}
    return {
        "kind": plan.kind,
        **report,
        "totals": totals,
        "diagnostics": shown,
        "diagnostics_left_out": len(found) - len(shown),
        "note": note,
    }


def _diagnostics(files: dict[str, bytes]) -> tuple[list[dict[str, Any]], str | None]:
    """The diagnostics, and a note if there are none or they cannot be read."""
    if not files:
        return [], NO_REPORT
    try:
        return tool_reports.lint_diagnostics(next(iter(files.values()))), None
    except tool_reports.BadReport as error:
        return [], f"The linter's report cannot be read: {error}."
