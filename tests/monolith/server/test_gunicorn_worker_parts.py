"""The private parts of gunicorn that our worker uses: a version without one of them fails here, by its name.

What the parts do together is tested with real processes: tests/system/acceptance/test_slow_clients.py and test_streams.py.
"""

from __future__ import annotations

import ast
import inspect
import socket
import textwrap
from collections import deque
from collections.abc import Iterator
from types import FunctionType

import gunicorn
import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.http.wsgi import Response
from gunicorn.workers import gthread

from monolith.server.gunicorn_worker import Worker
from monolith.server.slow_clients import IncomingBody

ADVICE = f"in gunicorn {gunicorn.__version__}. Change our subclass to match its workers/gthread.py, or pin the last version that passes"


@pytest.fixture
def worker() -> Iterator[gthread.ThreadWorker]:
    made = gthread.ThreadWorker(0, 0, [], None, 30, Config(), Logger(Config()))
    yield made
    made.tmp.close()


@pytest.fixture
def connection() -> Iterator[gthread.TConn]:
    """A connection as gunicorn makes it, with the parser that it gets in `init`."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = gthread.TConn(Config(), ours, ("127.0.0.1", 1), ("127.0.0.1", 2))
        made.init()
        yield made


def test_every_attribute_of_gunicorn_that_is_used_exists(worker: gthread.ThreadWorker, connection: gthread.TConn) -> None:
    ours = set(vars(IncomingBody)) | {"is_head"}
    needed = {
        "the worker": (worker, _used(Worker, "self") - set(vars(Worker))),
        "a connection": (connection, _used(Worker, "conn")),
        "a connection's reader": (connection.parser.unreader, (_used(Worker, "unreader") | _used(IncomingBody, "self")) - ours),
    }
    for where, (part, names) in needed.items():
        missing = sorted(name for name in names if not name.startswith("_") and not hasattr(part, name))
        assert not missing, f"{', '.join(missing)} of {where} no longer exist {ADVICE}"


@pytest.mark.parametrize(("ours", "theirs"), [(Worker, gthread.ThreadWorker), (IncomingBody, SocketUnreader)])
def test_every_method_that_is_overridden_is_one_of_gunicorns_and_is_called_alike(ours: type, theirs: type) -> None:
    overridden = {name for name, value in vars(ours).items() if isinstance(value, FunctionType) and not name.startswith("_")} - {"begin"}
    for name in sorted(overridden):
        assert hasattr(theirs, name), f"{theirs.__name__}.{name} no longer exists {ADVICE}"
        expected, found = (list(inspect.signature(getattr(one, name)).parameters) for one in (ours, theirs))
        assert expected == found, f"{theirs.__name__}.{name} takes {found}, ours takes {expected} {ADVICE}"


def test_what_is_used_is_of_the_kind_that_is_expected(worker: gthread.ThreadWorker, connection: gthread.TConn) -> None:
    assert isinstance(worker.pending_conns, deque), f"pending_conns is no deque {ADVICE}"
    assert worker.nr_conns == 0, f"nr_conns is no counter of connections {ADVICE}"
    assert type(connection.parser) is RequestParser, f"a connection is read by another parser than RequestParser {ADVICE}"
    assert type(connection.parser.unreader) is SocketUnreader, f"a connection is read by another class than SocketUnreader {ADVICE}"
    assert isinstance(Response.force_close, FunctionType), f"a response has no force_close {ADVICE}"


def _used(cls: type, name: str) -> set[str]:
    """The attributes that a class's source reads or sets on what it calls `name`, such as `nr_conns` of `self`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in attributes if name in (getattr(node.value, "id", None), getattr(node.value, "attr", None))}
