"""The jobs of the chaos suite. Each that succeeds applies the same two effects once: a file, and a `chaos_effect` that follows.

`CHAOS_RUNS` names a file to which every run adds a line: the job's id and its claim. A job runs more often than its effects apply.
"""

from __future__ import annotations

import collections
import ctypes
import itertools
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from marshmallow import Schema, fields

from monolith.job_types.registry import Job, fixed, job_type

LONG = 120  # seconds: longer than any freeze, so that a frozen job does not run past its limit
GIGABYTE = 1024**3
LARGE = 200_000  # bytes; the socket to the hook process holds hardly more


class Nothing(Schema):
    pass


class Seconds(Schema):
    seconds = fields.Float(load_default=0.0)


class Until(Schema):
    until = fields.String(load_default="")


class Parent(Schema):
    parent = fields.String(required=True)


@job_type(params=Seconds, takes="nothing", max_attempts=1, timeout=LONG)
def chaos_quick(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Succeed."""
    _note_run(job)
    time.sleep(params["seconds"])
    return _apply_effects(job)


@job_type(params=Nothing, takes="nothing", max_attempts=2, backoff=fixed(0.2), timeout=LONG)
def chaos_second_time(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Raise the first time, succeed the second."""
    _note_run(job)
    if job.attempt == 1:
        raise RuntimeError("not yet")
    return _apply_effects(job)


@job_type(params=Seconds, takes="nothing", max_attempts=1, timeout=LONG)
def chaos_sleep(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Sleep through every signal and exception that a process can be deaf to, then succeed."""
    _note_run(job)
    job.progress(None, "sleeping")
    ends_at = time.monotonic() + params["seconds"]
    while time.monotonic() < ends_at:
        with suppress(Exception):
            time.sleep(0.05)
    return _apply_effects(job)


@job_type(params=Seconds, takes="nothing", max_attempts=1, timeout=LONG)
def chaos_steps(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Say every half second how far it is, then succeed."""
    _note_run(job)
    steps = int(params["seconds"] * 2) + 1
    for step in range(steps):
        job.progress(100 * step / steps, f"step {step}")
        time.sleep(0.5)
    return _apply_effects(job)


@job_type(params=Until, takes="nothing", max_attempts=1, timeout=LONG)
def chaos_large(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Wait until there is this file, if any is named, then leave nearly as much as goes through the worker's parent."""
    _note_run(job)
    _wait_until(params["until"])
    return _apply_effects(job, LARGE)


@job_type(params=Until, takes="nothing", max_attempts=1, timeout=LONG)
def chaos_unrecordable(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Wait until there is this file, if any is named, then leave what no database takes: a file without a name."""
    _note_run(job)
    _wait_until(params["until"])
    job.outcome.files.append((None, "text/plain", b""))  # type: ignore[attr-defined]
    return _apply_effects(job)


@job_type(params=Parent, takes="nothing", max_attempts=1, timeout=LONG)
def chaos_effect(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """The effect of a job that succeeded."""
    _note_run(job)
    return {"parent": params["parent"]}


@job_type(params=Nothing, takes="nothing", max_attempts=2, backoff=fixed(0.2), timeout=LONG)
def chaos_raise(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Raise each time, with its effects asked for already."""
    _note_run(job)
    _apply_effects(job)
    raise RuntimeError("the site answered 503")


@job_type(params=Nothing, takes="nothing", max_attempts=1, timeout=1)
def chaos_slow(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Run past its limit in Python, swallowing every exception it can."""
    _note_run(job)
    _apply_effects(job)
    while True:
        with suppress(Exception):
            time.sleep(0.05)


@job_type(params=Nothing, takes="nothing", max_attempts=1, timeout=1)
def chaos_c_loop(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Run past its limit in C code that holds the interpreter."""
    _note_run(job)
    _apply_effects(job)
    collections.deque(itertools.repeat(0), maxlen=0)
    return {}


@job_type(params=Nothing, takes="nothing", max_attempts=1, timeout=1)
def chaos_grandchild(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Wait for a process of a session of its own that is deaf to SIGTERM, past its limit."""
    _note_run(job)
    script = f"import select, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); select.select([], [], [], 600)  # {job.id}"
    subprocess.run([sys.executable, "-S", "-c", script], check=False, start_new_session=True)
    return {}


@job_type(params=Nothing, takes="nothing", max_attempts=3, timeout=LONG)
def chaos_segfault(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Read where no memory is."""
    _note_run(job)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)
    return {}


@job_type(params=Seconds, takes="nothing", max_attempts=1, timeout=LONG, io_bound=True)
def chaos_wait(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Wait, beside others, then succeed."""
    _note_run(job)
    job.progress(None, "waiting")
    time.sleep(params["seconds"])
    return _apply_effects(job)


@job_type(params=Nothing, takes="nothing", max_attempts=1, timeout=1, io_bound=True)
def chaos_wait_late(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Run past its limit beside others, swallowing every exception it can."""
    _note_run(job)
    _apply_effects(job)
    while True:
        with suppress(Exception):
            time.sleep(0.05)


@job_type(params=Nothing, takes="nothing", max_attempts=1, timeout=1, io_bound=True)
def chaos_wait_stuck(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Run past its limit beside others, in C code that holds the interpreter of all of them."""
    _note_run(job)
    _apply_effects(job)
    collections.deque(itertools.repeat(0), maxlen=0)
    return {}


@job_type(params=Nothing, takes="nothing", max_attempts=3, timeout=LONG, io_bound=True)
def chaos_wait_segfault(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Take the process down, and what waits beside it."""
    _note_run(job)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)
    return {}


@job_type(params=Nothing, takes="nothing", max_attempts=1, timeout=LONG)
def chaos_allocate(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Ask for 2 GB where 1 GB is left, as on a small host."""
    _note_run(job)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTE, limits[1]))
    try:
        return {"bytes": len(bytearray(2 * GIGABYTE))}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@job_type(params=Nothing, takes="nothing", max_attempts=2, timeout=LONG)
def chaos_big(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Give a result of 5 MB."""
    _note_run(job)
    _apply_effects(job)
    return {"text": "x" * 5_000_000}


@job_type(params=Nothing, takes="nothing", max_attempts=2, timeout=LONG)
def chaos_strange(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Give a result that JSON cannot carry."""
    _note_run(job)
    _apply_effects(job)
    return {"set": {1, 2}, "nan": float("nan")}


def _note_run(job: Any) -> None:
    """One write in append mode is whole or not there, whoever dies."""
    line = f"{job.id} {job._claim.number} {os.getpid()}\n"
    if "CHAOS_RUNS" in os.environ:
        file = os.open(os.environ["CHAOS_RUNS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(file, line.encode())
        os.close(file)


def _wait_until(file: str) -> None:
    while file and not Path(file).exists():
        time.sleep(0.01)


def _apply_effects(job: Job, size: int = 0) -> dict[str, Any]:
    job.attach("effect.txt", job.id.encode().ljust(size), "text/plain")
    job.follow_up("chaos_effect", {"parent": job.id})
    return {"effect_of": job.id}
