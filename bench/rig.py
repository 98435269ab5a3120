"""What the benchmarks of workers stand on: an empty Redis, a folder, perhaps a ledger, and workers that all end with it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from redis import Redis, RedisError
from rq import Worker as RqWorker

from bench import loads
from bench.measuring import Records, Usage, tree, until, usage
from bench.work import RECORDS
from monolith import logs
from monolith.db.engine import get_engine
from monolith.errors import BadSetting
from monolith.linux.processes import kill_marked
from monolith.server import redis_server, run_all
from monolith.server.child_processes import ChildProcess, end

ENGINE = "monolith.runner.prefork.worker.PreforkWorker"
REDIS_TIMEOUT_S = 10
STARTING_S = 40.0
RUNNING_S = 180.0
ENDING_S = 15.0
RESTING_S = 1.0  # after the first jobs, until a worker is idle

Say = Callable[[str], object]


@dataclass(frozen=True)
class Contender:
    """A worker to measure: its command, what its environment adds, and the jobs it gets."""

    name: str
    command: list[str]
    load: loads.Load
    env: Mapping[str, str] = field(default_factory=dict)
    jobs: int = 0
    gap_s: float = 0.0  # between two jobs, where the latency of each is asked for
    workers: int = 1  # of RQ that it registers


@dataclass(frozen=True)
class Worker:
    """A contender that runs."""

    child: ChildProcess
    redis: Redis
    connections_before: int

    @property
    def pid(self) -> int:
        return self.child.pid

    def usage(self) -> Usage:
        return usage(self.pid, self.redis)

    def connections(self) -> int:
        return _connections(self.redis) - self.connections_before

    def wait(self, is_so: Callable[[], bool], within_s: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        """As `until`; raises ChildProcessError at once when the worker has died."""
        until(lambda: is_so() or not self.child.lives(), within_s, self.child.name, meanwhile)
        if not self.child.lives():
            raise ChildProcessError(f"{self.child.name} exited unexpectedly; see the lines above")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its processes stand still in the block, so that what is submitted meanwhile waits for all contenders alike."""
        for pid in tree(self.pid):
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in tree(self.pid):
                os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True)
class Rig:
    url: str
    redis: Redis
    records: Records
    ledger: loads.LedgerJobs | None

    def stock(self, *options: str, command: str = "worker") -> list[str]:
        """The command line of a worker of RQ."""
        return [sys.executable, "-m", "rq.cli", command, "--quiet", "--url", self.url, *options, loads.QUEUE]

    def pool(self, workers: int, *options: str) -> list[str]:
        return self.stock("--num-workers", str(workers), *options, command="worker-pool")

    def engine(self, *options: str) -> list[str]:
        """Our worker without the ledger, on plain jobs of RQ."""
        return self.stock("--worker-class", ENGINE, *options)

    def with_ledger(self, contenders: list[Contender], concurrency: int, jobs: int = 0, gap_s: float = 0.0) -> list[Contender]:
        """The contenders, and where there is a ledger the worker that serves it."""
        if self.ledger is None:
            return contenders
        command = [sys.executable, str(run_all.MANAGE), "worker"]
        database = "SQLite" if get_engine().dialect.name == "sqlite" else "PostgreSQL"
        ours = Contender(f"ours, with the ledger in {database}", command, self.ledger, concurrent(concurrency), jobs, gap_s)
        return [*contenders, ours]

    def clear(self) -> None:
        self.redis.flushdb()
        self.records.clear()
        if self.ledger is not None:
            self.ledger.clear()

    @contextmanager
    def running(self, contender: Contender) -> Iterator[Worker]:
        """The contender as processes that end with the block."""
        mark = f"INTRAY_BENCH={os.getpid()}"
        name, _, value = mark.partition("=")
        child = ChildProcess(contender.name, contender.command, {**os.environ, **contender.env, name: value})
        worker = Worker(child, self.redis, _connections(self.redis))
        child.start()
        try:
            yield worker
        finally:
            end([child], ENDING_S)
            kill_marked(mark)

    @contextmanager
    def idle(self, contender: Contender, first_jobs: int = 5) -> Iterator[Worker]:
        """The contender, after it has wholly started, done some first jobs and fallen idle."""
        self.clear()
        contender.load.submit(first_jobs)
        with self.running(contender) as worker:
            worker.wait(lambda: RqWorker.count(connection=self.redis) >= contender.workers, STARTING_S)
            worker.wait(lambda: contender.load.done() >= first_jobs, STARTING_S)
            time.sleep(RESTING_S)
            self.records.clear()
            yield worker


def _connections(redis: Redis) -> int:
    return int(redis.info("clients")["connected_clients"])


def concurrent(children: int, waiting: int | None = None) -> dict[str, str]:
    """The settings of our worker: its children, and how many waiting jobs each may hold."""
    return {"WORKER_CONCURRENCY": str(children), **({"WAITING_PER_CHILD": str(waiting)} if waiting else {})}


@contextmanager
def prepared(say: Say) -> Iterator[Rig]:
    """Raises `BadSetting` for a Redis or a database in which something is. Leaves both empty, and no process, also after Ctrl-C."""
    with empty_redis() as (folder, url), Redis.from_url(url, socket_timeout=REDIS_TIMEOUT_S) as redis:
        rig = Rig(url, redis, Records(folder / "records"), loads.ledger(say))
        try:
            yield rig
        finally:
            rig.clear()


@contextmanager
def empty_redis() -> Iterator[tuple[Path, str]]:
    """A folder that goes with the block, and the URL of a Redis with nothing in it, which this process's settings name from now on."""
    with TemporaryDirectory(prefix="intray-bench-") as folder, _ending_on_sigterm(), _redis(Path(folder)) as url:
        _set_environment(Path(folder), url)
        logs.configure("bench")
        with Redis.from_url(url, socket_timeout=REDIS_TIMEOUT_S) as redis:
            if redis.dbsize():
                raise BadSetting(
                    "The Redis of REDIS_URL is not empty. Use an empty one or unset REDIS_URL: this command empties it between runs."
                )
        yield Path(folder), url


def _set_environment(folder: Path, url: str) -> None:
    """For us and the workers alike, before the settings are read."""
    packages = [os.environ.get("JOB_PACKAGES", "jobs"), "bench.job_types"]
    path = [str(run_all.MANAGE.parent), os.environ.get("PYTHONPATH", "")]
    os.environ.update(
        {
            "REDIS_URL": url,
            "JOB_PACKAGES": ",".join(packages),
            "LOG_LEVEL": "WARNING",
            "QUEUE_MODE": "redis",
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            RECORDS: str(folder / "records"),
        }
    )
    os.environ.setdefault("INTRAY_HOME", str(folder))


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """The URL of REDIS_URL's server, or else of one of our own that ends with the block."""
    if os.environ.get("REDIS_URL"):
        yield os.environ["REDIS_URL"]
        return
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--logfile", str(folder / "redis.log")]
    server = ChildProcess("redis", [str(redis_server.program()), *options], os.environ)
    server.start()
    try:
        until(lambda: _answers(port), STARTING_S, "redis")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        end([server], ENDING_S)


def _answers(port: int) -> bool:
    try:
        with Redis(port=port, socket_timeout=1) as client:
            return bool(client.ping())
    except RedisError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """SIGTERM ends us as Ctrl-C does: through every `finally`."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
