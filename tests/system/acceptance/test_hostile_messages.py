"""Somebody can write to Redis: real messages of all hostile kinds, in a real Redis, before a real worker. None of them runs anything."""

from __future__ import annotations

import http.server
import json
import os
import pickle
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from monolith.runner.queue.rq_queues import FUNCTION
from tests.support.processes import Intray, until

QUEUE = "default.normal"
MODULE = """
import os
open(os.environ["EVIL"], "a").write("imported\\n")
def ran(*args, **options):
    open(os.environ["EVIL"], "a").write("called\\n")
"""


class Gadget:
    """Whoever unpickles it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@dataclass
class Attacker:
    connection: redis.Redis
    mark: Path  # a file that is there once any code of the attacker has run
    url: str  # where the attacker would be told

    def data(self, *call: Any) -> bytes:
        return zlib.compress(json.dumps(call).encode())

    def message(self, job_id: bytes | str, data: bytes, **more: Any) -> None:
        """What RQ keeps of a job, and its id on the queue."""
        told = {"created_at": "2026-01-01T00:00:00Z", "status": "queued", "origin": QUEUE, "description": "job", "timeout": "20"}
        key = b"rq:job:" + (job_id if isinstance(job_id, bytes) else job_id.encode())
        self.connection.hset(key, mapping={**told, "data": data, **more})
        self.connection.rpush(f"rq:queue:{QUEUE}", job_id)

    def functions(self) -> None:
        """Other functions, and ours with something else."""
        touch = f"touch {self.mark}"
        other = str(uuid.uuid4())
        calls = [
            ("os.system", None, [touch], {}),
            ("subprocess.getoutput", None, [touch], {}),
            ("evil.ran", None, [], {}),
            ("builtins.eval", None, [f"__import__('os').system('{touch}')"], {}),
            ("monolith.runner.ledger.lifecycle.stop", None, [other], {}),
            (FUNCTION, None, [other], {}),
            (FUNCTION, None, [], {}),
            (FUNCTION, None, [other, other], {}),
            (FUNCTION, None, [other], {"x": 1}),
            (FUNCTION, "evil", [other], {}),
            ("run", {"a": 1}, [other], {}),
            (FUNCTION + "\n", None, [other], {}),
        ]
        for call in calls:
            self.message(str(uuid.uuid4()), self.data(*call))

    def encodings(self) -> None:
        """Pickles, bombs, and what is no call at all."""
        gadget = pickle.dumps(Gadget(f"touch {self.mark}"))
        call = pickle.dumps(("os.system", None, (f"touch {self.mark}",), {}))
        bomb = zlib.compress(b"[" * 100_000_000, 9)
        for data in (
            gadget,
            zlib.compress(gadget),
            call,
            zlib.compress(call),
            b"",
            b"x",
            bomb,
            zlib.compress(b"[" * 900),
            self.data(),
            b"\xff",
        ):
            self.message(str(uuid.uuid4()), data)

    def fields(self) -> None:
        """A right call that asks for more."""
        gadget = pickle.dumps(Gadget(f"touch {self.mark}"))
        hook = json.dumps([{"url": self.url, "status": "finished", "statuses": ["finished", "failed"], "method": "POST"}])
        more: list[dict[str, Any]] = [
            {"success_callback_name": "evil.ran", "failure_callback_name": "evil.ran", "stopped_callback_name": "evil.ran"},
            {"webhooks": hook},
            {"meta": gadget},
            {"result": gadget},
            {"exc_info": gadget},
            {"retries_left": "3", "retry_intervals": "[0]"},
            {"repeats_left": "3", "repeat_intervals": "[0]"},
            {"rate_limit_key": "x", "rate_limit_concurrency": "1"},
            {"group_id": "x"},
            {"dependency_ids": "[1]"},
            {"timeout": "abc"},
            {"timeout": "nan"},
            {"timeout": "1e999"},
            {"result_ttl": "x"},
            {"failure_ttl": "\xff"},
            {"status": "nonsense"},
            {"origin": "\xff"},
            {"description": "x" * 300_000},
        ]
        for one in more:
            job_id = str(uuid.uuid4())
            self.message(job_id, self.data(FUNCTION, None, [job_id], {}), **one)
            self.connection.sadd(f"rq:job:{job_id}:dependents", str(uuid.uuid4()), b"\xff")

    def ids(self) -> None:
        """Ids that are none, each with the call that belongs to it."""
        odd = ["", " ", "../../etc/passwd", "a b\nworker | INJECTED", "' OR 1=1 --", "x" * 10_000, str(uuid.uuid4()).upper(), "a:b:c", "é"]
        for job_id in odd:
            self.message(job_id, self.data(FUNCTION, None, [job_id], {}))
        for raw in (b"\xff\xfe", b"\x00", b"%s %n"):
            self.message(raw, self.data("os.system", None, [f"touch {self.mark}"], {}))

    def kinds(self) -> None:
        """Where a hash should be is something else."""
        for place in ("string", "list", "set", "nothing"):
            job_id = str(uuid.uuid4())
            key = f"rq:job:{job_id}"
            if place == "string":
                self.connection.set(key, pickle.dumps(Gadget(f"touch {self.mark}")))
            if place == "list":
                self.connection.rpush(key, "x")
            if place == "set":
                self.connection.sadd(key, "x")
            self.connection.rpush(f"rq:queue:{QUEUE}", job_id)

    def registries(self) -> None:
        """What RQ looks through when it tidies up: jobs that seem to have been abandoned, with callbacks."""
        for registry in ("wip", "ready", "scheduled", "deferred", "failed", "finished"):
            for job_id in (str(uuid.uuid4()), "odd id", "\xff"):
                told = {"status": "started", "origin": QUEUE, "failure_callback_name": "evil.ran", "retries_left": "x", "timeout": "y"}
                self.connection.hset(f"rq:job:{job_id}", mapping={**told, "data": self.data("evil.ran", None, [], {})})
                self.connection.zadd(f"rq:{registry}:{QUEUE}", {f"{job_id}:1" if registry == "wip" else job_id: 1})

    def commands(self) -> None:
        """What is said on the channel of the worker."""
        said = ["", "{", "[]", "5", "null", "[" * 100_000, '{"command": 5}', '{"command": "stop-job"}', b"\xff", '{"command": "evil.ran"}']
        for name in self.connection.smembers("rq:workers"):
            worker = name.decode().rpartition(":")[2]
            for one in said:
                self.connection.publish(f"rq:pubsub:{worker}", one)
            self.connection.sadd(f"rq:worker:{worker}:executions", "x", "odd id:1", b"\xff", str(uuid.uuid4()) + ":1")
        self.connection.client_kill_filter(_type="pubsub")  # it comes back, and looks through what it seems to have been running


@pytest.fixture
def attacker(redis_server: str, tmp_path: Path) -> Iterator[Attacker]:
    asked: list[str] = []

    class Told(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            (tmp_path / "evil").touch()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Told) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = redis.Redis.from_url(redis_server)
        connection.flushall()
        yield Attacker(connection, tmp_path / "evil", f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
    assert asked == []


@pytest.fixture
def intray_before(new_intray: Callable[..., Intray], redis_server: str, attacker: Attacker, tmp_path: Path) -> Intray:
    """An installation whose worker was not started yet; the attacker's module could be imported by it."""
    (tmp_path / "evil.py").write_text(MODULE)
    trials = {"JOB_PACKAGES": "jobs,tests.trial_jobs", "PYTHONPATH": str(tmp_path), "EVIL": str(attacker.mark), "LOG_FORMAT": "json"}
    one: Intray = new_intray(REDIS_URL=redis_server, **trials)
    one.checked("db", "upgrade")
    one.spawn("web")
    one.spawn("clock")
    one.wait_until(one.is_ready)
    return one


@pytest.fixture
def token(intray_before: Intray) -> str:
    return intray_before.token(intray_before.user("a@example.org"))


def submitted(one: Intray, token: str, **params: Any) -> str:
    headers = {"Authorization": f"Bearer {token}"}
    answer = requests.post(f"{one.base_url}/api/v1/jobs", json={"type": "trial_echo", "params": params}, headers=headers, timeout=20)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def is_finished(one: Intray, token: str, job_id: str) -> bool:
    headers = {"Authorization": f"Bearer {token}"}
    answer = requests.get(f"{one.base_url}/api/v1/jobs/{job_id}", headers=headers, timeout=40)
    return bool(answer.json()["status"] == "finished")


ALL = ("registries", "functions", "encodings", "fields", "ids", "kinds")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("worker_class", ["monolith.runner.worker.ledger_worker.LedgerWorker", "rq.Worker"])
def test_whoever_can_write_to_redis_runs_nothing_and_stops_nothing(
    intray_before: Intray, token: str, attacker: Attacker, worker_class: str
) -> None:
    one = intray_before
    is_ours = worker_class != "rq.Worker"
    one.settings["WORKER_CLASS"] = worker_class
    overwritten = submitted(one, token, value="overwritten")
    attacker.connection.hset(f"rq:job:{overwritten}", "data", attacker.data("evil.ran", None, [], {}))
    for kind in ALL if is_ours else ("functions", "fields"):
        getattr(attacker, kind)()
    worker = one.spawn("worker")
    until(lambda: attacker.connection.llen(f"rq:queue:{QUEUE}") == 0, 60, lambda: said(one))  # stock RQ forks for each
    if is_ours:
        attacker.commands()
    good = submitted(one, token, value="good")
    until(lambda: is_finished(one, token, good), 20, lambda: said(one))
    assert not attacker.mark.exists(), attacker.mark.read_text()
    assert worker.poll() is None, "the worker lives on"
    if is_ours:
        until(lambda: is_finished(one, token, overwritten), 20, lambda: said(one))  # the ledger knows it, and pushed it again
        refused = list(attacker.connection.scan_iter("rq:refused:*"))
        assert len(refused) >= 45
        assert all(0 < attacker.connection.ttl(key) <= 7 * 86400 for key in refused)
        lines = [line for line in one.output().splitlines() if ": refused " in line]
        assert len(lines) >= 45 and all(json.loads(line) for line in lines)
        assert f"calls something other than {FUNCTION}" in one.output()


def test_neither_redis_nor_what_jobs_are_asked_with_holds_a_secret(intray_before: Intray, token: str, attacker: Attacker) -> None:
    one = intray_before
    one.settings["FETCH_ALLOW_LOOPBACK"] = "true"
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    made = session.post(f"{one.base_url}/api/v1/tokens", json={"name": "x"}, timeout=20).json()["token"]
    hook = session.post(f"{one.base_url}/api/v1/webhooks", json={"url": "http://93.184.215.14/hook"}, timeout=20).json()["secret"]
    job = session.post(f"{one.base_url}/api/v1/jobs", json={"type": "trial_echo", "params": {"value": "PARAMS-OF-IT"}}, timeout=20).json()[
        "id"
    ]
    ended = session.post(f"{one.base_url}/api/v1/jobs", json={"type": "trial_echo"}, timeout=20).json()["id"]
    assert session.post(f"{one.base_url}/api/v1/jobs/{ended}/cancel", timeout=20).ok
    until(lambda: any(kind == "webhook" for kind, _ in _asked_with(one)), or_else=one.output)
    held = _everything(attacker.connection)
    assert job.encode() in held
    secrets = [token, made, hook, "a long password", (one.home / "secret_key").read_text()]
    assert [secret for secret in [*secrets, "a@example.org", "PARAMS-OF-IT"] if secret.encode() in held] == []
    asked_with = str(_asked_with(one))
    assert "PARAMS-OF-IT" in asked_with
    assert [secret for secret in secrets if secret in asked_with] == []


def _asked_with(one: Intray) -> list[tuple[str, str]]:
    """The jobs of the ledger: their types, and what they were asked with."""
    with closing(sqlite3.connect(one.home / "intray.sqlite3")) as ledger:
        return ledger.execute("SELECT type, params FROM jobs").fetchall()


def _everything(connection: redis.Redis) -> bytes:
    """All keys and what they hold; what is compressed, uncompressed too."""
    found = []
    for key in connection.scan_iter("*"):
        kind = connection.type(key)
        values = {
            b"hash": lambda key: [*connection.hgetall(key).items()],
            b"list": lambda key: connection.lrange(key, 0, -1),
            b"set": lambda key: [*connection.smembers(key)],
            b"zset": lambda key: connection.zrange(key, 0, -1),
            b"string": lambda key: [connection.get(key)],
            b"stream": lambda key: connection.xrange(key),
        }[kind](key)
        found.append(key + repr(values).encode())
        if kind == b"hash" and (data := connection.hget(key, "data")):
            found.append(zlib.decompress(data))
    return b"\n".join(found)


def said(one: Intray) -> str:
    """What worker and clock have said last."""
    return "\n".join([line for line in one.output().splitlines() if '"event": "request"' not in line][-40:])
