"""A trial of a worker class: a Redis that was emptied, real `rq worker` processes on it, and what their jobs did."""

from __future__ import annotations

import os
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from rq import Queue
from rq.job import Job
from rq.worker_registration import REDIS_WORKER_KEYS

from tests.support.command_server import RQ, Forked
from tests.support.processes import until

CLASS_UNDER_TEST = os.environ.get("WORKER_CLASS_UNDER_TEST", "monolith.runner.prefork.worker.PreforkWorker")
STOCK = "rq.Worker"
ENDING_S = 30
MARK = "WORKER_TRIAL"


class Trial:
    """What the processes started here have in common, so that all of them are found and ended: a mark in their environment."""

    def __init__(self, redis_url: str, folder: Path, worker_class: str = CLASS_UNDER_TEST, **settings: str) -> None:
        self.redis_url = redis_url
        self.folder = folder
        self.worker_class = worker_class
        self.settings = settings
        self.mark = uuid.uuid4().hex
        self.connection = redis.Redis.from_url(redis_url)
        self.connection.flushall()
        self.workers: list[Forked] = []
        self._ids = iter(f"job{number}" for number in range(1, 10_000))

    # ---- jobs

    def queue(self, name: str = "default", serializer: str | None = None) -> Queue:
        return Queue(name, connection=self.connection, serializer=serializer)

    def push(self, function: Callable[..., Any] | str, *args: Any, on: str = "default", **options: Any) -> str:
        """Enqueue a job as job1, job2, ...: ids that are the same on every run."""
        job = self.queue(on, options.pop("serializer", None)).enqueue_call(function, args, job_id=next(self._ids), **options)
        return str(job.id)

    def push_many(self, number: int, function: Callable[..., Any], *args: Any, on: tuple[str, ...] = ("default",)) -> list[str]:
        """Enqueue so many jobs at once, on the queues in turn."""
        with self.connection.pipeline() as pipeline:
            pushed = [self.push(function, *args, on=on[index % len(on)], pipeline=pipeline) for index in range(number)]
            pipeline.execute()
        return pushed

    def job(self, job_id: str) -> Job:
        return Job.fetch(job_id, connection=self.connection)

    def status(self, job_id: str) -> str:
        return self.statuses([job_id])[job_id]

    def statuses(self, job_ids: Iterable[str]) -> dict[str, str]:
        with self.connection.pipeline(transaction=False) as pipeline:
            for one in job_ids:
                pipeline.hget(f"rq:job:{one}", "status")
            return {one: (found or b"gone").decode() for one, found in zip(job_ids, pipeline.execute(), strict=True)}

    def wait_for(self, status: str, *job_ids: str, within: float = 30) -> None:
        until(lambda: set(self.statuses(job_ids).values()) == {status}, within, lambda: self._story(job_ids))

    def failure(self, job_id: str) -> str:
        result = self.job(job_id).latest_result()
        return str(result.exc_string) if result else ""

    def places(self) -> dict[str, list[str]]:
        """For each job id, every list and registry of RQ's that it is in."""
        found: dict[str, list[str]] = {}
        for key in self.connection.scan_iter("rq:*", count=1000):
            kind, name = self.connection.type(key), key.decode()
            if kind == b"list":
                members = self.connection.lrange(key, 0, -1)
            elif kind == b"zset" and not name.startswith("rq:executions:"):
                members = self.connection.zrange(key, 0, -1)
            else:
                continue
            for member in members:
                found.setdefault(member.decode().partition(":")[0], []).append(name)
        return found

    # ---- effects

    @property
    def effects_file(self) -> Path:
        return self.folder / f"effects-{self.mark}"

    def effects(self) -> list[str]:
        return self.effects_file.read_text().splitlines() if self.effects_file.exists() else []

    def count(self, line: str) -> int:
        return Counter(self.effects())[line]

    def begun(self, *job_ids: str, within: float = 20) -> None:
        until(lambda: all(self.count(f"begin {one}") for one in job_ids), within, lambda: self._story(job_ids))

    def open(self, gate: str = "gate") -> None:
        """Let go on what waits in jobs_for_workers.wait_for."""
        Path(f"{self.effects_file}-{gate}").touch()

    # ---- processes

    @property
    def env(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RQ_", "WORKER_", "SHUTDOWN_"))}
        return {**inherited, MARK: self.mark, "EFFECTS": str(self.effects_file), **self.settings}

    def start(
        self, *options: str, queues: tuple[str, ...] = ("default",), worker_class: str = "", listens: bool = True, **settings: str
    ) -> Forked:
        """Start `rq worker` in a session of its own as w1, w2, ...; and unless it only bursts, wait until it listens."""
        name = f"w{len(self.workers) + 1}"
        chosen = ("--name", name, "--worker-class", worker_class or self.worker_class, *options)
        words = ("worker", "--url", self.redis_url, *chosen, *queues)
        process = Forked(RQ, *words, env={**self.env, **settings}, log=self.log, new_session=True)
        self.workers.append(process)
        if listens and "--burst" not in options:
            self.until_state("idle", "busy", name=name)
        return process

    def burst(self, *options: str, **choices: Any) -> None:
        """Run a worker until the queues are empty."""
        assert self.start("--burst", *options, **choices).wait(60) == 0, self._story(())

    def rq(self, *words: str) -> str:
        """What a command of RQ's own prints."""
        said = self.folder / f"said-{uuid.uuid4().hex}"
        assert Forked(RQ, words[0], "--url", self.redis_url, *words[1:], env=self.env, log=said).wait(60) == 0, said.read_text()
        return said.read_text()

    def state(self, name: str = "w1") -> str:
        return (self.connection.hget(f"rq:worker:{name}", "state") or b"").decode()

    def until_state(self, *states: str, name: str = "w1", within: float = 30) -> None:
        until(lambda: self.state(name) in states, within, lambda: f"{self.state(name)!r}; {self._story(())}", self._all_ended)

    def is_registered(self, name: str = "w1") -> bool:
        return bool(self.connection.sismember(REDIS_WORKER_KEYS, f"rq:worker:{name}"))

    def stop(self, worker: Forked, number: signal.Signals = signal.SIGTERM) -> int:
        worker.send_signal(number)
        return worker.wait(ENDING_S)

    def processes(self) -> list[int]:
        """Every living process that was started for this trial, however it has left its family since."""
        return [pid for pid, env in _environments() if f"{MARK}={self.mark}" in env]

    def end(self) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for worker in self.workers:
            worker.wait()
        self.connection.close()

    @property
    def log(self) -> Path:
        return self.folder / f"log-{self.mark}"

    def _all_ended(self) -> bool:
        return all(worker.poll() is not None for worker in self.workers)

    def _story(self, job_ids: tuple[str, ...]) -> str:
        """What to know when it went wrong."""
        return f"{self.statuses(job_ids)} {self.effects()[-20:]}\n{self.log.read_text(errors='replace')[-3000:]}"


def _environments() -> Iterator[tuple[int, list[str]]]:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                yield int(path.name), (path / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
