"""How many submissions a web process takes, beside a bare Flask and RQ route. Results are in docs/performance.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection

from sqlalchemy import select

from bench.rig import Say, free_port
from monolith.accounts import tokens, users
from monolith.config import settings
from monolith.db import engine
from monolith.db.engine import read_session
from monolith.db.models import User
from monolith.errors import BadSetting
from monolith.runner.ledger.audit import Actor
from monolith.runner.queue import rq_queues
from monolith.server import child_processes
from monolith.server.child_processes import ChildProcess
from monolith.server.run_all import MANAGE

CONNECTIONS = 16
WARM_UP_S = 1
BATCH = 500
BATCH_CONNECTIONS = 4
STARTING_S = 30.0
ENDING_S = 10.0
MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
SETTINGS = {
    "WEB_CONCURRENCY": "1",
    "WEB_THREADS": "8",
    "LOG_LEVEL": "WARNING",
    "REQUEST_RATE": "0",
    "ANONYMOUS_RATE": "0",
    "MAX_QUEUED": "100000000",
    "MAX_QUEUED_PER_USER": "100000000",
    "JOB_PACKAGES": "bench.trial_jobs",
}


@dataclass(frozen=True)
class Call:
    """One POST that is sent again and again."""

    port: int
    path: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Rate:
    """How many requests a second were answered, and within how many milliseconds."""

    per_s: float
    p50: float
    p99: float


def measure(passes: int, seconds: int, say: Say) -> None:
    """Start both, measure them in turn, tell. Raises `BadSetting` for a database or a Redis in which something is."""
    require_empty()
    token = new_token()
    with ExitStack() as started:
        ours, bare = (started.enter_context(_serving(name, command)) for name, command in _commands().items())
        bearer = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = json.dumps({"type": "bench_nothing", "params": {"number": 1}}).encode()
        batch = json.dumps({"text": "One text", "jobs": ["bench_nothing"] * BATCH}).encode()
        calls = {"POST /api/v1/jobs": Call(ours, "/api/v1/jobs", body, bearer), "the bare route": Call(bare, "/submit", body, bearer)}
        singles = _in_turn(calls, CONNECTIONS, passes, seconds)
        of_batches = {f"{BATCH} jobs per request": Call(ours, "/api/v1/documents", batch, bearer)}
        batches = _in_turn(of_batches, BATCH_CONNECTIONS, passes, seconds)
    _tell(say, singles, batches)


def _tell(say: Say, singles: dict[str, list[Rate]], batches: dict[str, list[Rate]]) -> None:
    say(f"{'':<24}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}   passes")
    for name, rates in {**singles, **batches}.items():
        middle = _middle(rates)
        passes = " ".join(f"{rate.per_s:.0f}" if rate.per_s > 50 else f"{rate.per_s:.1f}" for rate in rates)
        say(f"{name:<24}{middle.per_s:>12.1f}{middle.p50:>10.1f}{middle.p99:>10.1f}   {passes}")
    ours, bare = map(_middle, singles.values())
    say(f"{'ours / bare':<24}{ours.per_s / bare.per_s:>12.2f}{ours.p50 / bare.p50:>10.2f}{ours.p99 / bare.p99:>10.2f}")
    for rates in batches.values():
        say(f"{'jobs/s in batches':<24}{_middle(rates).per_s * BATCH:>12.0f}")


def _middle(rates: list[Rate]) -> Rate:
    """The median of each of its numbers."""
    return Rate(*(statistics.median(getattr(rate, part) for rate in rates) for part in ("per_s", "p50", "p99")))


def require_empty() -> None:
    engine.upgrade()
    with read_session() as session:
        if session.scalar(select(User.id).limit(1)):
            raise BadSetting("The database of DATABASE_URL is not empty. Use an empty one, because this command fills it with jobs.")
    if rq_queues.is_inline() or rq_queues.connection().dbsize():
        raise BadSetting("The Redis of REDIS_URL is not empty. Use an empty one, because this command fills it with messages.")


def new_token() -> str:
    user = users.create_user("bench@example.org", os.urandom(16).hex(), Actor("bench"))
    return tokens.create_token(user.id, "bench")[1]


# ---- the servers


def _commands() -> dict[int, list[str]]:
    """What to start, by the port it listens at."""
    ours, bare = free_port(), free_port()
    gunicorn = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--threads", "8", "--keep-alive", "5"]
    return {
        ours: [sys.executable, str(MANAGE), "web"],
        bare: [*gunicorn, "--log-level", "warning", "--bind", f"127.0.0.1:{bare}", "bench.bare_route:app"],
    }


@contextmanager
def _serving(port: int, command: list[str]) -> Iterator[int]:
    own = {"PORT": str(port), "HOST": "127.0.0.1", "REDIS_URL": settings().redis_url, "PYTHONPATH": str(MANAGE.parent)}
    child = ChildProcess("web", command, {**os.environ, **SETTINGS, **own})
    child.start()
    try:
        wait_for(port, child)
        yield port
    finally:
        child_processes.end([child], ENDING_S)


def wait_for(port: int, child: ChildProcess) -> None:
    give_up_at = time.monotonic() + STARTING_S
    while True:
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=1)
            connection.connect()
            return connection.close()
        except OSError:
            if not child.lives() or time.monotonic() > give_up_at:
                raise BadSetting("The web process did not start; see its output above.") from None
            time.sleep(0.05)


# ---- the clients


def _in_turn(calls: dict[str, Call], connections: int, passes: int, seconds: int) -> dict[str, list[Rate]]:
    """Each call's rates, pass by pass: what else the machine does meets all of them alike."""
    send = _wrk if shutil.which("wrk") else _threads
    for call in calls.values():
        send(call, connections, WARM_UP_S)
    rates: dict[str, list[Rate]] = {name: [] for name in calls}
    for _ in range(passes):
        for name, call in calls.items():
            rates[name].append(send(call, connections, seconds))
    return rates


def _wrk(call: Call, connections: int, seconds: int) -> Rate:
    headers = "".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}\n" for name, value in call.headers.items())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f'wrk.method = "POST"\nwrk.body = {json.dumps(call.body.decode())}\n{headers}')
        script.flush()
        url = f"http://127.0.0.1:{call.port}{call.path}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency", "-s", script.name, url]
        said = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True).stdout  # noqa: S603 - our own
    if "Non-2xx" in said:
        raise BadSetting(f"Some requests were refused: {said.strip().splitlines()[-1]}")
    within = {place: float(number) * MILLISECONDS[unit] for place, number, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", said)}
    return Rate(float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0]), within["50"], within["99"])


def _threads(call: Call, connections: int, seconds: int) -> Rate:
    """What wrk does, in Python, which takes more of the machine from what is measured."""
    times: list[float] = []
    ends_at = time.monotonic() + seconds
    senders = [threading.Thread(target=_send_until, args=(call, ends_at, times)) for _ in range(connections)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    points = statistics.quantiles(times, n=100, method="inclusive")
    return Rate(len(times) / seconds, points[49], points[98])


def _send_until(call: Call, ends_at: float, times: list[float]) -> None:
    connection = HTTPConnection("127.0.0.1", call.port, timeout=30)
    while (began := time.monotonic()) < ends_at:
        connection.request("POST", call.path, call.body, call.headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise BadSetting(f"A request was refused: {answer.status} {answer.reason}")
        times.append((time.monotonic() - began) * 1000)
    connection.close()
