"""Redis servers that Intray cannot use, or not fully: a cluster, a user without some rights."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis
from sqlalchemy import update

from monolith.db.engine import write_session
from monolith.db.models import Job
from monolith.runner.monitoring.alert_snapshot import take_snapshot
from monolith.runner.queue import rq_queues
from monolith.runner.scheduler import clock
from monolith.server import doctor
from tests.support.callers import Caller
from tests.support.jobs import new_jobs
from tests.support.processes import accepts, free_port, until
from tests.support.servers import RedisServer, redis_program


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    one = RedisServer(tmp_path)
    yield one
    one.kill()


@pytest.fixture
def allow(server: RedisServer, intray_settings: Callable[..., None]) -> Callable[..., None]:
    """Use the server as a user with these rights."""

    def use(*rights: str) -> None:
        with Redis.from_url(server.url) as client:
            client.execute_command("ACL", "SETUSER", "small", "on", ">secret", "~*", "&*", *rights)
        intray_settings(REDIS_URL=server.url.replace("://", "://small:secret@"))

    return use


def test_a_user_without_info_gets_its_messages_pushed_again_and_no_alert(allow, server, alice: Caller) -> None:
    allow("+@all", "-info")
    jobs = new_jobs(alice.user.id, number=3)
    with write_session() as session:
        session.execute(update(Job).values(queued_at=Job.queued_at - 5))
    rq_queues.connection().delete(rq_queues.queue("default.normal").key)
    assert clock.repair()
    assert rq_queues.waiting_ids("default.normal") == {job.id for job in jobs}
    snapshot = take_snapshot()
    assert (snapshot.redis_missed, snapshot.redis_percent, snapshot.listened) == (0, None, set())
    assert doctor.CHECKS["redis"]().endswith("; works, but its user may not run INFO")
    assert doctor.CHECKS["eviction"]().startswith("not known, because the user of REDIS_URL may not run INFO")
    assert doctor.CHECKS["crowd"]().startswith("0 connections to Redis")


def test_a_command_that_is_needed_and_refused_is_named(allow, server) -> None:
    allow("+@all", "-zadd", "-script|load")
    with pytest.raises(doctor.CheckFailed, match=r"may not run ZADD, SCRIPT LOAD on rq:\*"):
        doctor.CHECKS["redis"]()
    allow("+@all")
    assert doctor.CHECKS["redis"]() == urlsplit(server.url).netloc
    with Redis.from_url(server.url) as client:
        assert client.keys() == []


@pytest.mark.parametrize("rights", [("+@all",), ("+@all", "-info")])
def test_a_cluster_is_refused_in_one_line(tmp_path: Path, intray_settings: Callable[..., None], rights: tuple[str, ...]) -> None:
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", "", "--cluster-enabled", "yes"]
    with subprocess.Popen([redis_program(), *options, "--cluster-port", str(free_port())], stdout=subprocess.DEVNULL) as node:
        try:
            until(lambda: accepts(port), in_vain=lambda: node.poll() is not None)
            with Redis(port=port) as client:
                client.execute_command("ACL", "SETUSER", "small", "on", ">secret", "~*", "&*", *rights)
            intray_settings(REDIS_URL=f"redis://small:secret@127.0.0.1:{port}/0")
            with pytest.raises(doctor.CheckFailed, match="^REDIS_URL is a Redis Cluster.*Use a Redis without cluster mode.$"):
                doctor.CHECKS["redis"]()
        finally:
            node.kill()
