"""The thread that writes to all open streams: what it does about clients that are silent, slow or gone."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator

import pytest

from monolith.documents.event_stream import FROM_NOW_ON, Stream
from monolith.web import sse_thread
from monolith.web.sse_thread import Connection, SseThread
from tests.support.callers import Caller
from tests.support.jobs import submit_job
from tests.support.processes import until

Opened = Callable[..., socket.socket]


@pytest.fixture
def board(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> Iterator[SseThread]:
    monkeypatch.setattr(sse_thread, "TICK_S", 0.05)
    one = SseThread()
    yield one
    one.end()
    one.join(20)


@pytest.fixture
def opened(board: SseThread, alice: Caller) -> Iterator[Opened]:
    """The client's end of a new stream: of all jobs of alice, or of one."""
    clients: list[socket.socket] = []

    def open_one(job_id: str | None = None, *, is_chunked: bool = False) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.settimeout(20)
        clients.append(theirs)
        board.take(Connection(ours, Stream(alice.user.id, False, job_id, 0 if job_id else FROM_NOW_ON), is_chunked))
        return theirs

    yield open_one
    for one in clients:
        one.close()


def read_until(client: socket.socket, end: bytes) -> bytes:
    content = b""
    while end not in content:
        more = client.recv(4096)
        assert more, content
        content += more
    return content


def test_a_silent_stream_is_kept_alive(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse_thread, "HEARTBEAT_S", 0.1)
    client = opened()
    assert read_until(client, b": here\n\n: here\n\n").startswith(b"id: ")


def test_http_1_1_gets_chunks_and_their_end(board: SseThread, opened: Opened) -> None:
    client = opened(is_chunked=True)
    said = read_until(client, b"data: {}\n\n\r\n")
    assert int(said.split(b"\r\n")[0], 16) == len(said.split(b"\r\n")[1])
    board.end()
    assert read_until(client, b"0\r\n\r\n") == b"0\r\n\r\n"
    assert client.recv(1) == b""


def test_a_client_that_has_gone_makes_room(board: SseThread, opened: Opened, alice: Caller, intray_settings: Callable[..., None]) -> None:
    intray_settings(MAX_STREAMS_PER_USER="1")
    client = opened()
    until(lambda: not board.has_room(alice.user.id))
    client.close()
    until(lambda: board.has_room(alice.user.id))


def test_who_does_not_read_holds_nobody_up_and_has_to_come_back(
    board: SseThread, opened: Opened, alice: Caller, intray_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse_thread, "MAX_UNSENT", 1000)
    intray_settings(MAX_STREAMS_PER_USER="2")
    slow, quick = opened(), opened()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    read_until(quick, b"ready")
    jobs = [submit_job(alice)["id"]]
    until(lambda: not board.has_room(alice.user.id))
    while not board.has_room(alice.user.id):
        jobs.append(submit_job(alice)["id"])
        read_until(quick, jobs[-1].encode())
    jobs.append(submit_job(alice)["id"])
    assert jobs[-1] in read_until(quick, jobs[-1].encode()).decode()


def test_a_stream_of_a_job_is_closed_when_the_job_is_over(opened: Opened, alice: Caller) -> None:
    job = submit_job(alice)
    client = opened(job["id"])
    read_until(client, b"submitted")
    alice.post(f"/api/v1/jobs/{job['id']}/cancel")
    last = read_until(client, b'"canceled"')
    assert json.loads(last.partition(b"data: ")[2])["status"] == "canceled"
    assert client.recv(1) == b""
