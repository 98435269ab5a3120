"""How ordinary requests fare beside open streams, on one web process, while what is watched moves. Results: docs/performance.md."""

from __future__ import annotations

import json
import os
import re
import selectors
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPConnection
from itertools import cycle

from bench import loads, tables
from bench.measuring import cpu_s, pss_mb
from bench.rig import ENDING_S, Say, free_port
from bench.submissions import wait_for
from monolith.accounts import tokens
from monolith.db import engine
from monolith.db.engine import write_session
from monolith.db.models import User
from monolith.errors import BadSetting
from monolith.job_types import registry
from monolith.runner.ledger import insert, lifecycle
from monolith.runner.ledger.lifecycle import Claim
from monolith.runner.worker.context import RunningJob
from monolith.server import run_all
from monolith.server.child_processes import ChildProcess, end

USERS = 20
MOVES_PER_S = 50  # steps of the watched jobs, in turn
CLIENTS = 4
PAUSE_S = 0.04  # between two requests of a client, as people make them
LIMITS = {"MAX_STREAMS": "100000", "MAX_STREAMS_PER_USER": "100000", "REQUEST_RATE": "0"}


def measure(streams: int, seconds: float, say: Say) -> None:
    """Ask without streams, then beside them. Raises `BadSetting` for a database in which something is."""
    if not loads.is_empty():
        raise BadSetting(
            "The database of DATABASE_URL is not empty. Use an empty one or unset DATABASE_URL, because this command fills it with jobs."
        )
    engine.upgrade()
    jobs = _jobs(_tokens())
    with ExitStack() as running:
        web = running.enter_context(_web())
        rows = {"no streams": _asking(web, jobs, seconds)}
        running.enter_context(_moving(jobs))
        rows["no streams, jobs changing"] = _asking(web, jobs, seconds)
        audience = running.enter_context(_listening(web, jobs, streams))
        rows[f"{streams} streams, jobs changing"] = _asking(web, jobs, seconds)
    for line in tables.lines("Ordinary requests while streams are open", rows):
        say(line)
    say(f"\n{audience.say()}")


@dataclass(frozen=True)
class Watched:
    """A job that runs, as its owner's client knows it."""

    claim: Claim
    token: str


@dataclass(frozen=True)
class Web:
    port: int
    pid: int


def _tokens() -> dict[int, str]:
    """A token for each user."""
    with write_session() as session:
        users = [User(email=f"bench{number}@example.org", password_hash="") for number in range(USERS)]
        session.add_all(users)
    return {user.id: tokens.create_token(user.id, "bench")[1] for user in users}


def _jobs(owners: dict[int, str]) -> list[Watched]:
    """Running jobs, a few of each user."""
    noop = registry.find("bench_noop")
    found = []
    for user_id, token in [*owners.items()] * 8:
        (job,) = lifecycle.submit(user_id, [insert.JobSpec(noop, {"at": time.time()})])
        if claim := lifecycle.claim(job.id, "bench"):
            found.append(Watched(claim, token))
    return found


@contextmanager
def _web() -> Iterator[Web]:
    port = free_port()
    own = {"PORT": str(port), "HOST": "127.0.0.1", "WEB_CONCURRENCY": "1", **LIMITS}
    child = ChildProcess("web", [sys.executable, str(run_all.MANAGE), "web"], {**os.environ, **own})
    child.start()
    try:
        wait_for(port, child)
        yield Web(port, child.pid)
    finally:
        end([child], ENDING_S)


@contextmanager
def _moving(jobs: list[Watched]) -> Iterator[None]:
    """Meanwhile the jobs say how far they are, one after the other."""
    over = threading.Event()

    def move() -> None:
        for number, job in enumerate(cycle([RunningJob(one.claim) for one in jobs])):
            job.progress(number % 100, f"step {number}")
            if over.wait(1 / MOVES_PER_S):
                return

    mover = threading.Thread(target=move)
    mover.start()
    try:
        yield
    finally:
        over.set()
        mover.join()


# ---- requests


def _asking(web: Web, jobs: list[Watched], seconds: float) -> tables.Figures:
    times: list[float] = []
    used, began_at = cpu_s(web.pid), time.monotonic()
    clients = [threading.Thread(target=_ask, args=(web.port, jobs[place::CLIENTS], began_at + seconds, times)) for place in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    points = statistics.quantiles(times, n=100, method="inclusive")
    took = time.monotonic() - began_at
    return {
        "requests/s": len(times) / took,
        "p50 ms": points[49],
        "p99 ms": points[98],
        "CPU %": 100 * (cpu_s(web.pid) - used) / took,
        "PSS MB": pss_mb(web.pid),
    }


def _ask(port: int, jobs: list[Watched], ends_at: float, times: list[float]) -> None:
    """The page of a job and the job as JSON, in turn."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    for path, job in zip(cycle(("/jobs/", "/api/v1/jobs/")), cycle(jobs), strict=False):
        began = time.monotonic()
        if began > ends_at:
            return connection.close()
        connection.request("GET", path + job.claim.job_id, headers={"Authorization": f"Bearer {job.token}"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise BadSetting(f"A request was refused: {answer.status} {answer.reason}")
        times.append((time.monotonic() - began) * 1000)
        time.sleep(PAUSE_S)
    return None


# ---- streams


@dataclass
class Audience:
    """Open streams, and how old each event was when it came."""

    connections: list[socket.socket] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    ended: int = 0

    def say(self) -> str:
        points = statistics.quantiles(self.ages, n=100, method="inclusive")
        told = f"{len(self.ages)} events arrived {points[49]:.0f} ms (p50) and {points[98]:.0f} ms (p99) after they were written"
        return f"{told}; {len(self.connections) - self.ended} of {len(self.connections)} streams were open at the end."


@contextmanager
def _listening(web: Web, jobs: list[Watched], streams: int) -> Iterator[Audience]:
    """Four streams of a job for each one of a user."""
    audience, over = Audience(), threading.Event()
    for number, job in zip(range(streams), cycle(jobs), strict=False):
        path = "/api/v1/events" if number % 5 == 4 else f"/api/v1/jobs/{job.claim.job_id}/events"
        audience.connections.append(_open(web.port, path, job.token))
    listener = threading.Thread(target=_listen, args=(audience, over))
    listener.start()
    try:
        yield audience
    finally:
        over.set()
        listener.join()
        for connection in audience.connections:
            connection.close()


def _open(port: int, path: str, token: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    if not (said := connection.recv(65536)).startswith(b"HTTP/1.1 200"):
        raise BadSetting(f"A stream was refused: {said.splitlines()[0].decode()}")
    return connection


def _listen(audience: Audience, over: threading.Event) -> None:
    """An event is told whole in one packet: what is split counts as not come."""
    selector = selectors.DefaultSelector()
    for connection in audience.connections:
        selector.register(connection, selectors.EVENT_READ)
    opened_at = time.time()
    while not over.is_set():
        for key, _ in selector.select(0.2):
            content, now = key.fileobj.recv(65536), time.time()  # type: ignore[union-attr]
            if not content:
                audience.ended += 1
                selector.unregister(key.fileobj)
            written = (datetime.fromisoformat(json.loads(found)).timestamp() for found in re.findall(rb'"at": ("[^"]+")', content))
            audience.ages += [(now - at) * 1000 for at in written if at > opened_at]
