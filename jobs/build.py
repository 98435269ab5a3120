"""Build a project: run its build in a sandbox, and keep what it makes."""

from __future__ import annotations

import mimetypes
from pathlib import PurePosixPath
from typing import Any

from monolith.config import settings
from monolith.job_types.registry import Job, fixed, job_type

from .tools.project import commands
from .tools.project.commands import ProjectParams
from .tools.project.terminal_text import readable
from .tools.sandbox import launch, run

MAX_ARTIFACTS = 20 * 1024 * 1024  # bytes, in all


@job_type(
    params=ProjectParams,
    alternatives=("files",),
    max_attempts=2,
    backoff=fixed(5),
    timeout=settings().sandbox_seconds + 60,
    available=launch.why_off,
)
def build(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Build a software project (zip or tar.gz).

    Runs the build in a sandbox without network access: the commands in `intray.toml`, or else the standard build for Python, Node
    or make. Returns the exit code, the log and the built files, up to 20 MB. A failed build is a result, not a failed job.
    """
    with commands.unpacked(job, params) as project:
        plan = commands.plan("build", project)
        outcome = run.run(job, project, plan, MAX_ARTIFACTS, "building")
    job.progress(95, "saving the build output")
    return {"kind": plan.kind, **outcome.report(job), "artifacts": _attach(job, outcome.files), "left_out": outcome.left_out}


def _attach(job: Job, files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Keep each file under its own name, or under its path where two have the same."""
    kept: list[dict[str, Any]] = []
    for path, content in files.items():
        inner = readable(path.partition("/")[2])
        name = PurePosixPath(inner).name[-150:]
        if any(name == one["name"] for one in kept) or name == run.LOG:
            name = f"{len(kept)}-{inner.replace('/', '-')[-150:]}"
        job.attach(name, content, mimetypes.guess_type(name)[0] or "application/octet-stream")
        kept.append({"name": name, "path": inner[:300], "size": len(content)})
    return kept
