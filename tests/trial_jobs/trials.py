"""Job types that end in every way there is, for tests. Real workers load them with JOB_PACKAGES=jobs,tests.trial_jobs."""

from __future__ import annotations

import collections
import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from decimal import Decimal
from typing import Any

from marshmallow import Schema, fields
from sqlalchemy import create_engine

from monolith.job_types.registry import FailedJob, Job, Permanent, Snooze, exponential, fixed, job_type


class Nothing(Schema):
    pass


class Echo(Schema):
    value = fields.Raw(load_default=None)


class Follow(Schema):
    type = fields.String(load_default="trial_echo")
    params = fields.Dict(load_default=None)


class Seconds(Schema):
    seconds = fields.Float(load_default=1.0)


@job_type(params=Echo, takes="nothing", max_attempts=2, backoff=fixed(0.1), timeout=20)
def trial_echo(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Give back its params, with a file and two steps."""
    job.progress(10, "listening")
    job.progress(90, "echoing")
    job.attach("echo.txt", str(params["value"]).encode(), "text/plain")
    return {"value": params["value"]}


@job_type(params=Nothing, takes="nothing", timeout=20, highest_priority="critical")
def trial_urgent(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Be urgent: anyone may submit it as critical."""
    return {}


class Files(Schema):
    name = fields.String(load_default="a.bin")
    text = fields.String(load_default=None)
    sizes = fields.List(fields.Integer(), load_default=list)
    media_type = fields.String(load_default="application/octet-stream")


@job_type(params=Files, takes="nothing", max_attempts=3, timeout=20)
def trial_attach(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Attach a text, or files of these sizes under the name and its number."""
    if params["text"] is not None:
        job.attach(params["name"], params["text"], params["media_type"])
    for number, size in enumerate(params["sizes"]):
        job.attach(f"{number}-{params['name']}", bytearray(size), params["media_type"])
    return {}


@job_type(params=Echo, takes="nothing", max_attempts=1, timeout=20)
def trial_not_a_number(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Divide by zero: in its progress, and where `value` says."""
    job.progress(float("nan"), "dividing")
    if params["value"] == "cost":
        job.spent(input_tokens=1, output_tokens=1, usd=Decimal("NaN"))
    if params["value"] == "score":
        job.decide(route="automatic", decision="approved", score=float("inf"))
    if params["value"] == "delay":
        job.follow_up("trial_echo", {}, delay=float("nan"))
    if params["value"] == "params":
        job.follow_up("trial_echo", {"value": float("inf")})
    return {"mean": [float("nan")] if params["value"] == "result" else None}


@job_type(params=Nothing, takes="nothing", max_attempts=2, backoff=fixed(0.1), timeout=20)
def trial_raise(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Raise each time."""
    raise RuntimeError("the site answered 503")


@job_type(params=Nothing, takes="nothing", max_attempts=1, timeout=20)
def trial_own_database(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Ask a database of its own, which is away."""
    with create_engine("sqlite:////nowhere/its own").connect():
        return {}


@job_type(params=Nothing, takes="nothing", max_attempts=3, backoff=exponential(0.1), timeout=20)
def trial_second_time(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Raise the first time, succeed the second."""
    if job.attempt == 1:
        raise RuntimeError("not yet")
    return {"attempt": job.attempt}


@job_type(params=Nothing, takes="nothing", max_attempts=3, backoff=fixed(2), timeout=20)
def trial_busy_site(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Find a site busy the first time, and read it the second, both in steps that take a moment."""
    job.progress(None, "fetching the page")
    time.sleep(1)
    if job.attempt == 1:
        raise RuntimeError("The site answered 503.")
    for share in (30, 60, 90):
        job.progress(share, f"reading part {share // 30}")
        time.sleep(0.6)
    return {"parts": 3}


@job_type(params=Nothing, takes="nothing", max_attempts=3, timeout=20)
def trial_permanent(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Fail for good at once."""
    raise Permanent("The file is broken. Export it again.")


@job_type(params=Nothing, takes="nothing", max_attempts=1, timeout=20)
def trial_exit(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Leave as a program does."""
    sys.exit(3)


@job_type(params=Nothing, takes="nothing", max_attempts=1, timeout=20)
def trial_later(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Ask to be parked."""
    raise Snooze(600, "OpenAI asked for a pause")


@job_type(params=Echo, takes="nothing", max_attempts=2, timeout=20)
def trial_snooze(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Ask to be parked for any time."""
    raise Snooze(float(params["value"]))


@job_type(params=Echo, takes="nothing", max_attempts=1, timeout=20)
def trial_loud(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Fail with so many megabytes of message."""
    raise {"error": RuntimeError, "permanent": Permanent}[params["value"]]("x" * 50_000_000)


@job_type(params=Seconds, takes="nothing", max_attempts=1, timeout=1)
def trial_slow(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Run past its limit, swallowing every exception it can."""
    job.progress(None, "sleeping")
    ends_at = time.monotonic() + params["seconds"]
    while time.monotonic() < ends_at:
        with suppress(Exception):
            time.sleep(0.05)
    return {}


@job_type(params=Seconds, takes="nothing", max_attempts=1, timeout=60)
def trial_sleep(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Sleep."""
    job.progress(None, "sleeping")
    time.sleep(params["seconds"])
    return {"slept": params["seconds"]}


@job_type(params=Echo, takes="nothing", max_attempts=3, timeout=20)
def trial_bad_result(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Give a result that cannot be kept."""
    return {"set": {"set": {1, 2}, "nan": float("nan"), "big": "x" * 2_000_000}[params["value"]]}


def trial_mistake(job: FailedJob) -> None:
    job.decide(route="ONSITE", decision="review")
    raise RuntimeError(f"a mistake of {job.type}")


@job_type(params=Nothing, max_attempts=1, timeout=20, on_failure=trial_mistake)
def trial_sad(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Fail, and stumble over what should come of it."""
    raise Permanent("It cannot be done.")


def trial_misbehave(job: FailedJob) -> None:
    job.decide(route="ONSITE", decision="review")
    match job.params["value"]:
        case "exit":
            sys.exit(3)
        case "long":
            time.sleep(45)
        case "loop":
            collections.deque(itertools.repeat(0), maxlen=0)
        case "die":
            os._exit(7)
        case "unsaved":
            job.follow_up("trial_echo", {"value": float("nan")})
        case "unreadable":
            raise Unreadable


class Unreadable(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@job_type(params=Echo, max_attempts=1, timeout=20, on_failure=trial_misbehave)
def trial_unruly(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Fail, and misbehave when asked what should come of it."""
    raise Permanent("It cannot be done.")


def trial_rescue(job: FailedJob) -> None:
    job.decide(route="ONSITE", decision="review")
    job.follow_up("trial_echo", {"value": f"{job.error_type} of {job.document_title} for {job.owner_email}"})


@job_type(params=Echo, max_attempts=2, backoff=fixed(0.1), timeout=1, on_failure=trial_rescue)
def trial_doomed(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Kill its own process, or stay in C code until it is killed."""
    job.progress(None, "ending badly")
    if params["value"] == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    collections.deque(itertools.repeat(0), maxlen=0)
    return {}


@job_type(params=Nothing, takes="nothing", max_attempts=3, timeout=20)
def trial_crash(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Kill its own process."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@job_type(params=Follow, takes="nothing", max_attempts=1, timeout=20)
def trial_follow(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Have another job follow."""
    job.follow_up(params.get("type", "trial_echo"), params.get("params") or {"value": job.id}, priority="high")
    return {}


@job_type(params=Nothing, takes="nothing", max_attempts=1, timeout=1)
def trial_c_loop(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Stay in C code that holds the interpreter: no signal handler of Python runs meanwhile."""
    job.progress(None, "counting")
    collections.deque(itertools.repeat(0), maxlen=0)
    return {}


@job_type(params=Echo, takes="nothing", max_attempts=1, timeout=600)
def trial_program(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Start a program that takes its time, and wait for it."""
    subprocess.run(["sleep", "300"], check=False)
    return {}


@job_type(params=Echo, takes="nothing", max_attempts=1, timeout=1)
def trial_grandchild(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Start a process that is deaf to signals and leaves for a session of its own, and wait for it."""
    script = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)  # {params['value']}"
    subprocess.run([sys.executable, "-c", script], check=False, start_new_session=True)
    return {}


@job_type(params=Seconds, takes="nothing", max_attempts=2, backoff=fixed(0.1), timeout=20, max_running=2)
def trial_two(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Run in two places at most."""
    return {}


@job_type(params=Seconds, takes="nothing", max_attempts=1, timeout=20, max_running_per_user=1)
def trial_one_each(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Run once at most for each user."""
    return {}


@job_type(params=Seconds, takes="nothing", max_attempts=1, timeout=20, rate="60/h")
def trial_paced(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Start once a minute."""
    return {}


@job_type(params=Seconds, takes="nothing", max_attempts=1, timeout=20, rate_per_user="60/h")
def trial_paced_each(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Start once a minute for each user."""
    return {}
