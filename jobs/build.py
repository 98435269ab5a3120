"""The job type `build`: runs the build of a project in a sandbox and keeps the built files."""

from __future__ import annotations

import mimetypes
from pathlib import PurePosixPath
from typing import Any

from monolith.config import settings
from monolith.job_types.registry import Job, fixed, job_type

from .tools.project import commands
from .tools.project.commands import ProjectParams
from .tools.sandbox import launch, run
from .tools.sandbox.bwrap_command import SandboxSpec

MAX_ARTIFACTS = 20 * 1024 * 1024  # bytes in total


@job_type(
    params=ProjectParams,
    alternatives=("files",),
    max_attempts=2,
    backoff=fixed(5),
    timeout=settings().sandbox_seconds + 60,
    available=launch.unavailable_reason,
)
def build(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Build a software project (zip or tar.gz).

    Runs the build in a sandbox without network access: the commands in `intray.toml`, or else the standard build for Python, Node
    or make. Returns the exit code, the log and the built files, up to 20 MB. A failed build is a result, not a failed job.
    """
    with commands.unpacked_project(job, params) as project:
        plan = commands.plan("build", project)
        spec = SandboxSpec(plan.steps, plan.collect, MAX_ARTIFACTS, project.links)
        outcome = run.run(job, project.folder, spec, "building")
    job.progress(95, "saving the build output")
    return {"kind": plan.kind, **outcome.report(job), "artifacts": _attach(job, outcome.files), "left_out": outcome.left_out}


def _attach(job: Job, files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Attaches each file under its own name, or under its path where two have the same name."""
    kept: list[dict[str, Any]] = []
    for path, content in files.items():
        inner = run.readable(path.partition("/")[2])
        name = PurePosixPath(inner).name[-150:]
        if any(name == one["name"] for one in kept) or name == run.LOG:
            name = f"{len(kept)}-{inner.replace('/', '-')[-150:]}"
        job.attach(name, content, mimetypes.guess_type(name)[0] or "application/octet-stream")
        kept.append({"name": name, "path": inner[:300], "size": len(content)})
    return kept
