"""Redis Sentinel: a replica is promoted under load, because the primary died and because somebody wanted it; nothing is lost."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from redis import Redis, RedisError

from tests.support.hosts.servers import running
from tests.support.processes import Intray, NewIntray, accepts, free_port, until

SERVICE = "main"
LEAST = 20  # submissions between two events


@dataclass
class Sentinels:
    """A primary, its replica, and three sentinels that watch them."""

    folder: Path
    stack: ExitStack
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(2)])
    sentinels: list[int] = field(default_factory=lambda: [free_port() for _ in range(3)])

    def start(self) -> None:
        for port in (*self.ports, *self.sentinels):
            (self.folder / str(port)).mkdir()
        self.primary_at_first = self.start_server(self.ports[0])
        self.start_server(self.ports[1], "--replicaof", "127.0.0.1", str(self.ports[0]))
        until(lambda: self._has_replica(self.ports[0]))
        for port in self.sentinels:
            self._start_sentinel(port)
        until(lambda: all(self._knows_all(port) for port in self.sentinels), 90)

    def start_server(self, port: int, *words: str) -> subprocess.Popen[bytes]:
        own = ["--port", str(port), "--dir", str(self.folder / str(port)), "--save", "", "--repl-diskless-sync-delay", "0"]
        server = self.stack.enter_context(running("redis-server", *own, *words))
        until(lambda: accepts(port))
        return server

    def _start_sentinel(self, port: int) -> None:
        file = self.folder / str(port) / "sentinel.conf"
        watch = (
            f"monitor {SERVICE} 127.0.0.1 {self.ports[0]} 2",
            f"down-after-milliseconds {SERVICE} 1000",
            f"failover-timeout {SERVICE} 5000",
        )
        file.write_text("\n".join([f"port {port}", f"dir {file.parent}", *(f"sentinel {words}" for words in watch)]))
        self.stack.enter_context(running("redis-server", str(file), "--sentinel"))

    def _has_replica(self, port: int) -> bool:
        with Redis(port=port) as redis:
            found = redis.info("replication")
            return bool(found["connected_slaves"] and found["slave0"]["state"] == "online")

    def bring_back(self) -> None:
        """Start the first server again, as the replica of its successor: the sentinels would make it one, but take their time."""
        self.start_server(self.ports[0], "--replicaof", "127.0.0.1", str(self.ports[1]))
        until(lambda: self._has_replica(self.ports[1]), 120)

    def _knows_all(self, port: int) -> bool:
        """Whether this sentinel knows the replica and both other sentinels: before that none is promoted."""
        try:
            with Redis(port=port, decode_responses=True) as sentinel:
                known = sentinel.execute_command("SENTINEL", "MASTER", SERVICE)
                said = known if isinstance(known, dict) else dict(zip(known[::2], known[1::2], strict=True))
                return (int(said["num-slaves"]), int(said["num-other-sentinels"])) == (1, 2)
        except RedisError:
            return False

    def primary(self) -> int:
        """The port of whom the first sentinel says it is."""
        with Redis(port=self.sentinels[0], decode_responses=True) as sentinel:
            return int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])

    def promote(self) -> bool:
        """Ask for the replica to take over; whether it will. A sentinel that has not seen it yet says no."""
        with Redis(port=self.sentinels[0]) as sentinel:
            try:
                return bool(sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE))
            except RedisError:
                return False

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.sentinels)}/{SERVICE}/0"


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    with ExitStack() as stack:
        one = Sentinels(tmp_path, stack)
        one.start()
        yield one


class Load:
    """Somebody who submits without a pause."""

    def __init__(self, intray: Intray, token: str) -> None:
        self._url, self._headers = f"{intray.base_url}/api/v1/jobs", {"Authorization": f"Bearer {token}"}
        self.accepted: list[str] = []
        self.refused: list[Any] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        kinds = ("trial_echo", "trial_follow")
        while not self._is_over.wait(0.05):
            body = {"type": kinds[len(self.accepted) % 2]}
            answer = requests.post(self._url, json=body, headers=self._headers, timeout=20)
            if answer.status_code == 202:
                self.accepted.append(answer.json()["id"])
            else:
                self.refused.append(answer.text)

    def go_on(self) -> None:
        """Wait for some more."""
        known = len(self.accepted)
        until(lambda: len(self.accepted) >= known + LEAST, 90)


@pytest.mark.timeout(400)
def test_a_replica_that_sentinel_promotes_under_load_takes_over_and_nothing_is_lost(sentinels: Sentinels, new_intray: NewIntray) -> None:
    intray = new_intray(REDIS_URL=sentinels.url, JOB_PACKAGES="jobs,tests.trial_jobs")
    intray.checked("db", "upgrade")
    token = intray.token(intray.user("a@example.org"))
    for name in ("web", "worker", "clock"):
        intray.spawn(name)
    intray.wait_until(lambda: intray.manage("doctor").returncode == 0)
    first, second = sentinels.ports
    with Load(intray, token) as load:
        load.go_on()
        sentinels.primary_at_first.kill()
        until(lambda: sentinels.primary() == second, 90)
        load.go_on()
        until(lambda: load.accepted[0] in _finished(intray), 90, intray.output)
        sentinels.bring_back()
        until(sentinels.promote, 90)
        until(lambda: sentinels.primary() == first, 120)
        load.go_on()
    assert load.refused == []
    follow = len(load.accepted) // 2  # every second one has one that follows
    until(lambda: len(_finished(intray)) == len(load.accepted) + follow, 120, intray.output)
    assert set(load.accepted) <= _finished(intray)
    balance = json.loads(intray.checked("ledger", "--json"))
    assert balance["finished"] == balance["accepted"] == len(load.accepted) + follow, balance
    with Redis(port=first) as redis:
        assert redis.info("replication")["role"] == "master" and redis.scard("rq:workers") == 1


def _finished(intray: Intray) -> set[str]:
    """The jobs that are finished, and of whose claims one has begun."""
    returned = "SELECT count(*) FROM job_events WHERE job_id = jobs.id AND name = 'returned'"
    with closing(sqlite3.connect(intray.home / "intray.sqlite3")) as ledger:
        found = ledger.execute(f"SELECT id FROM jobs WHERE status = 'finished' AND attempt = 1 AND claims - ({returned}) = 1")
        return {job_id for (job_id,) in found}
