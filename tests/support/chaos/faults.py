"""The faults, and the scheduler that strikes with one every few seconds, in an order that its seed decides."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field

import psycopg
from redis import RedisError

from tests.support.chaos.fleet import Fleet, Post, children, send
from tests.support.chaos.workers import FULL

BUSY_S = 3.0
RETRY_S = 0.2
TINY = 1  # bytes: every command that needs memory is refused


@dataclass
class Faults:
    """Strikes the fleet for `seconds`. `long_s` is how long what is frozen or away stays so; `rests` the seconds between two strikes."""

    fleet: Fleet
    seed: int
    seconds: float
    long_s: float = 20.0
    silent_s: float = 35.0  # longer than a worker may be silent
    rests: tuple[float, float] = (1.0, 3.0)
    timeline: list[tuple[float, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._started_at = time.monotonic()
        self._is_mended = threading.Event()
        self._passing: list[threading.Thread] = []

    def run(self) -> None:
        """Every kind once, in a random order; then at random until the time is over. No fault goes on when it returns."""
        self._started_at = time.monotonic()
        once = self._rng.sample(list(self.kinds), len(self.kinds))
        while once or time.monotonic() < self._started_at + self.seconds:
            name = once.pop() if once else self._rng.choices(list(self.kinds), [self.weights.get(kind, 1) for kind in self.kinds])[0]
            self._strike(name)
            time.sleep(self._rng.uniform(*self.rests))
        self._is_mended.set()
        for fault in self._passing:
            fault.join()
        self.fleet.mend()

    def _for_a_while(self, fault: Callable[[float], None], at_most_s: float) -> str:
        """Start a fault that lasts for so many seconds, or until the time is over, beside the others."""
        seconds = self._rng.uniform(1, at_most_s)
        self._passing.append(threading.Thread(target=fault, args=(seconds,), daemon=True))
        self._passing[-1].start()
        return f"for {seconds:.0f} s"

    def _strike(self, name: str) -> None:
        at = time.monotonic() - self._started_at
        said = self.kinds[name]()
        self.counts[name] = self.counts.get(name, 0) + 1
        self.timeline.append((round(at, 1), f"{name} {said or ''}".strip()))

    @property
    def weights(self) -> dict[str, int]:
        return {
            "child_killed": 4,
            "hooks_killed": 4,
            "hooks_socket_full": 2,
            "worker_killed": 3,
            "clock_killed": 2,
            "web_killed": 2,
            "redis_emptied": 2,
            "redis_killed_and_emptied": 2,
        }

    @property
    def kinds(self) -> dict[str, Callable[[], str | None]]:
        """Every kind of fault of this fleet, by name."""
        kinds: dict[str, Callable[[], str | None]] = {
            "child_killed": self._kill_child,
            "worker_killed": lambda: self._kill("worker"),
            "all_workers_killed": self._kill_all_workers,
            "web_killed": lambda: self._kill("web"),
            "clock_killed": lambda: self._kill("clock"),
            "child_frozen": self._freeze_child,
            "hooks_killed": self._kill_hooks,
            "hooks_frozen": lambda: self._freeze_hooks(self._one("worker"), 2 * self.long_s),
            "hooks_socket_full": self._fill_hooks_socket,
            "worker_frozen": lambda: self._freeze("worker", self._rng.uniform(1, self.long_s)),
            "worker_frozen_with_child": lambda: self._freeze("worker", self._rng.uniform(1, self.long_s), with_children=True),
            "web_frozen": lambda: self._freeze("web", self._rng.uniform(1, self.long_s)),
            "clock_frozen": lambda: self._freeze("clock", self._rng.uniform(1, self.long_s)),
            "redis_killed": lambda: self.fleet.keep_away(self._one("redis"), signal.SIGKILL, self._rng.uniform(0, self.long_s / 4)),
            "redis_killed_and_emptied": self._kill_and_empty_redis,
            "redis_emptied": self._empty_redis,
            "redis_frozen": lambda: self._freeze("redis", self._rng.uniform(1, self.long_s)),
            "redis_full": self._fill_redis,
            "everything_told_to_stop": lambda: f"all ended after {self.fleet.deploy():.1f} s",
        }
        if self.silent_s:
            kinds["worker_silent"] = lambda: self._freeze("worker", self.silent_s)
        if self.fleet.cluster:
            return kinds | {
                "database_crashed": lambda: self.fleet.keep_away(self._one("postgresql"), signal.SIGQUIT, 0),
                "database_away": lambda: self.fleet.keep_away(self._one("postgresql"), signal.SIGQUIT, self.long_s),
                "database_read_only": self._make_read_only,
                "database_full": self._take_connections,
                "rows_locked": self._lock_rows,
            }
        return kinds | {"database_locked": self._lock_sqlite}

    def _one(self, kind: str) -> Post:
        return self._rng.choice(self.fleet.named(kind))

    def _kill(self, kind: str) -> str:
        post = self._one(kind)
        self.fleet.kill(post)
        return post.name

    def _kill_all_workers(self) -> None:
        for post in self.fleet.named("worker"):
            self.fleet.kill(post)

    def _kill_child(self) -> str:
        busy = self._busy()
        if busy:
            self.fleet.kills += 1
            send(self._rng.choice(busy), signal.SIGKILL)
        return "" if busy else "(none was there)"

    def _busy(self) -> list[int]:
        """The children of workers, after waiting some seconds for one."""
        give_up_at = time.monotonic() + BUSY_S
        while time.monotonic() < give_up_at:
            if found := [pid for post in self.fleet.named("worker") if post.pid for pid in children(post.pid)]:
                return found
            time.sleep(0.01)
        return []

    def _freeze(self, kind: str, seconds: float, *, with_children: bool = False) -> str:
        post = self._one(kind)
        if post.pid:
            self.fleet.freeze([post.pid, *(children(post.pid) if with_children else [])], seconds)
        return f"{post.name} for {seconds:.0f} s"

    def _freeze_child(self) -> str:
        seconds, busy = self._rng.uniform(1, self.long_s), self._busy()
        self.fleet.freeze([self._rng.choice(busy)] if busy else [], seconds)
        return f"for {seconds:.0f} s" if busy else "(none was there)"

    def _kill_hooks(self) -> str:
        post = self._one("worker")
        send(self.fleet.hook_process_of(post), signal.SIGKILL)
        return post.name

    def _freeze_hooks(self, post: Post, seconds: float) -> str:
        if hooks := self.fleet.hook_process_of(post):
            self.fleet.freeze([hooks], seconds)
        return f"{post.name} for {seconds:.0f} s" if hooks else f"{post.name} (none was there)"

    def _fill_hooks_socket(self) -> str:
        """Freeze the hook process of the worker whose socket to it holds next to nothing; it goes on before it is replaced."""
        full = self.fleet.points / FULL
        full.unlink(missing_ok=True)
        said = self._freeze_hooks(self.fleet.posts[self.fleet.cramped], self._rng.uniform(1, self.long_s / 3))
        give_up_at = time.monotonic() + BUSY_S
        while not full.exists() and time.monotonic() < give_up_at:
            time.sleep(0.01)
        return said if full.exists() else f"{said} (it was not full)"

    def _kill_and_empty_redis(self) -> None:
        redis = self._one("redis")
        self.fleet.keep_away(redis, signal.SIGKILL, self._rng.uniform(0.5, self.long_s / 4))
        if redis.process:
            redis.process.wait()
        for folder in self.fleet.home.glob("appendonly*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _empty_redis(self) -> str | None:
        try:
            self.fleet.redis.flushall()
        except RedisError as error:
            return f"({error})"
        return None

    def _fill_redis(self) -> str | None:
        try:
            self.fleet.redis.config_set("maxmemory", TINY)
        except RedisError as error:
            return f"({error})"

        def give_back(seconds: float) -> None:
            self._is_mended.wait(seconds)
            with suppress(RedisError):
                self.fleet.redis.config_set("maxmemory", 0)

        return self._for_a_while(give_back, self.long_s / 2)

    def _make_read_only(self) -> str:
        """As after a failover: the server answers, and refuses every write."""

        def be_read_only(seconds: float) -> None:
            while not self._set_read_only("on") and not self._is_mended.wait(RETRY_S):
                pass
            self._is_mended.wait(seconds)
            while not self._set_read_only("off"):
                time.sleep(RETRY_S)

        return self._for_a_while(be_read_only, self.long_s)

    def _set_read_only(self, value: str) -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(self.fleet.database_url, connect_timeout=2, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            connection.execute("SELECT pg_reload_conf()")
            return True
        return False

    def _take_connections(self) -> str:
        """Somebody else holds all the connections that the server still has."""

        def take(seconds: float) -> None:
            with ExitStack() as taken:
                with suppress(psycopg.OperationalError):
                    while not self._is_mended.is_set():
                        taken.enter_context(psycopg.connect(self.fleet.database_url, connect_timeout=2))
                self._is_mended.wait(seconds)

        return self._for_a_while(take, self.long_s)

    def _lock_rows(self) -> str:
        """Somebody holds the rows of some running jobs."""

        def lock(seconds: float) -> None:
            with suppress(psycopg.Error), psycopg.connect(self.fleet.database_url, connect_timeout=2) as connection:
                connection.execute("SELECT id FROM jobs WHERE status = 'started' LIMIT 3 FOR UPDATE SKIP LOCKED")
                self._is_mended.wait(seconds)

        return self._for_a_while(lock, self.long_s)

    def _lock_sqlite(self) -> str:
        """Somebody holds the write lock for longer than a writer waits for it."""

        def hold(seconds: float) -> None:
            path = self.fleet.home / "intray.sqlite3"
            with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                self._is_mended.wait(seconds)
                connection.execute("ROLLBACK")

        return self._for_a_while(hold, self.long_s)
