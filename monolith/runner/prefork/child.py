"""What a child does: take a job from its inbox, run it, say how it ended; again and again.

A child holds no connection to Redis. An ordinary one runs one job at a time in its main thread. A waiting one runs up to
WAITING_PER_CHILD jobs that mostly wait, each in a thread, and its main thread sees to their limits.
"""

from __future__ import annotations

import ctypes
import marshal
import mmap
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from rq.defaults import UNSERIALIZABLE_RETURN_VALUE_PAYLOAD
from rq.executions import Execution
from rq.job import Job, Retry
from rq.job_lifecycle import format_exc_info
from rq.timeouts import JobTimeoutException
from rq.worker import BaseWorker

from monolith.linux.processes import dying_with, end_children, has_children, inherit_orphans

if TYPE_CHECKING:
    from rq.queue import Queue

DONE, FAILED, HANDLED, STOPPED = range(4)  # ended with a result; with a trace; RQ's own code wrote it down; stopped on request
RUN, STOP = range(2)
PACKET = 256 * 1024
LENGTH = struct.Struct("<I")
DEAF_TO = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody stopped this job. No `except Exception` may hold it back."""


@dataclass(frozen=True)
class Assignment:
    """One job to run, as its packet says it."""

    ticket: int
    lane: int
    job_id: str
    queue: Queue
    execution_id: str
    taken_at: float
    is_plain: bool
    limit: float
    fields: dict[bytes, bytes]


class JobLoop:
    """Where jobs are run: what the two kinds of children have in common."""

    def __init__(self, worker: BaseWorker, inbox: socket.socket, outbox: socket.socket, shared: mmap.mmap, growth_limit: int) -> None:
        self._worker = worker
        self._queues = {queue.name: queue for queue in worker.queues}
        self._inbox = inbox
        self._outbox = outbox
        self._shared = shared
        self._packet = memoryview(bytearray(PACKET))
        self._most_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + growth_limit // 1024
        self._sending = threading.Lock()

    def receive(self) -> tuple[int, Any]:
        """RUN with an Order, or STOP with a ticket. Ends this process when the parent has closed our inbox."""
        size = self._inbox.recv_into(self._packet)
        if not size:
            os._exit(0)
        verb, *rest = marshal.loads(self._packet[:size])
        return verb, self._order(*rest) if verb == RUN else rest[0]

    def _order(self, ticket: int, lane: int, job_id: str, queue: str, *rest: Any) -> Assignment:
        return Assignment(ticket, lane, job_id, self._queues[queue], *rest)

    def run(self, order: Assignment, limited: Callable[[Assignment, Callable[[], Any]], Any]) -> None:
        """Run it and send how it ended."""
        slot.shared, slot.number = self._shared, order.lane
        began = time.monotonic()
        if order.is_plain:
            how, payload = self._run_plain(order, limited)
        else:
            how, payload = HANDLED, self._run_by_rq(order)
        self._shared[order.lane] = 0
        is_grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > self._most_memory
        message = marshal.dumps((order.ticket, how, payload, time.monotonic() - began, is_grown))
        with self._sending:
            self._outbox.sendall(LENGTH.pack(len(message)) + message)

    def _run_plain(self, order: Assignment, limited: Callable[[Assignment, Callable[[], Any]], Any]) -> tuple[int, bytes | str]:
        job = self._worker.job_class(order.job_id, connection=self._worker.connection, serializer=self._worker.serializer)
        try:
            job.restore(order.fields)
            value = limited(order, job.perform)
            if isinstance(value, Retry):
                return HANDLED, self._retry(job, order, value)
            return DONE, self._serialized(value)
        except Stopped:
            return STOPPED, b""
        except BaseException:  # as RQ does: whatever ends a job is written down
            exc_info = sys.exc_info()
            with suppress(Exception):
                self._worker.handle_exception(job, *exc_info)
            return FAILED, format_exc_info(exc_info)

    def _serialized(self, value: Any) -> bytes:
        """As RQ's `Result.serialize` does it; nothing for None."""
        if value is None:
            return b""
        serializer = self._worker.serializer
        try:
            return b64encode(serializer.dumps(value))
        except BaseException:  # RQ's promise: a result that cannot be kept fails no job
            return b64encode(serializer.dumps(UNSERIALIZABLE_RETURN_VALUE_PAYLOAD))

    def _run_by_rq(self, order: Assignment) -> bytes:
        """All that is unusual goes RQ's own way, with a connection for as long as it takes."""
        try:
            job = self._worker.job_class.fetch(order.job_id, connection=self._worker.connection, serializer=self._worker.serializer)
            self._worker.perform_job(job, order.queue, self._execution(order, job))
        finally:
            self._worker.connection.connection_pool.disconnect()
        return b""

    def _retry(self, job: Job, order: Assignment, value: Retry) -> bytes:
        job.started_at, job.worker_name = datetime.fromtimestamp(order.taken_at, UTC), self._worker.name
        try:
            self._worker._finalize_success(job, order.queue, self._execution(order, job), value)
        finally:
            self._worker.connection.connection_pool.disconnect()
        return b""

    def _execution(self, order: Assignment, job: Job) -> Execution:
        execution = Execution(order.execution_id, order.job_id, self._worker.connection, self._worker.name)
        execution.restore(
            {b"created_at": str(order.taken_at), b"last_heartbeat": str(order.taken_at), b"worker_name": execution.worker_name}
        )
        execution._job = job
        return execution


def work_alone(bench: JobLoop, death_penalty: Any) -> NoReturn:
    """An ordinary child: one job after the other. Nothing that a job has started outlives it."""

    def limited(order: Assignment, perform: Callable[[], Any]) -> Any:
        with death_penalty(int(order.limit), JobTimeoutException, job_id=order.job_id):
            return perform()

    while True:
        _, order = bench.receive()
        os.environ["RQ_JOB_ID"] = order.job_id
        bench.run(order, limited)
        if has_children():
            end_children()


def work_waiting(bench: JobLoop, inbox: socket.socket, lanes: int) -> NoReturn:
    """A waiting child: a thread for each job. The main thread hears of new ones, of stops, and sees to the limits."""
    threads = ThreadPoolExecutor(lanes)
    running: dict[int, RunningTask] = {}

    def run(order: Assignment) -> None:
        mine = running[order.ticket]
        mine.thread = threading.get_ident()

        def limited(order: Assignment, perform: Callable[[], Any]) -> Any:
            with mine:
                return perform()

        bench.run(order, limited)
        del running[order.ticket]

    while True:
        late_at = min((one.late_at for one in list(running.values())), default=float("inf"))
        wait = max(0.0, min(late_at - time.monotonic(), 3600.0))
        if select.select([inbox], [], [], wait)[0]:
            verb, said = bench.receive()
            if verb == RUN:
                running[said.ticket] = RunningTask(said.limit)
                threads.submit(run, said)
            elif said in running:
                running[said].end(Stopped)
        for one in list(running.values()):
            if time.monotonic() >= one.late_at:
                one.end(one.late)


class RunningTask:
    """A job in a thread. An exception can be raised in it from outside, which it meets when it next runs Python code."""

    AGAIN_S = 1.0  # in case it was swallowed

    def __init__(self, limit: float) -> None:
        self.thread = 0
        self.late_at = time.monotonic() + limit if limit > 0 else float("inf")
        self.late = _late(limit)
        self._guard = threading.Lock()
        self._is_inside = False

    def __enter__(self) -> None:
        self._is_inside = True

    def __exit__(self, *error: Any) -> None:
        with self._guard:
            self._is_inside = False
            _raise_in(self.thread, None)  # what was to be raised and has not been yet, must not be later

    def end(self, why: type[BaseException]) -> None:
        self.late_at = time.monotonic() + self.AGAIN_S
        with self._guard:
            if self._is_inside:
                _raise_in(self.thread, why)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error and ctypes.py_object(error))


def _late(limit: float) -> type[JobTimeoutException]:
    """RQ's exception with RQ's message: only a class can be raised in another thread, and it gets no arguments."""
    said = f"Task exceeded maximum timeout value ({limit:g} seconds)"
    return type("JobTimeoutException", (JobTimeoutException,), {"__str__": lambda self: said, "__module__": JobTimeoutException.__module__})


def become_child(parent: int) -> None:
    """What every forked child does first: a group of its own, deaf to the host's signals, dead when the parent is."""
    dying_with(parent, signal.SIGKILL)()
    inherit_orphans()
    os.setpgrp()
    signal.set_wakeup_fd(-1)
    for number in DEAF_TO:
        signal.signal(number, _do_nothing)  # and not SIG_IGN, which the programs that jobs start would inherit
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    random.seed()


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


class Slot(threading.local):
    """The byte that the job of this thread shares with the parent of its process; None where no parent looks."""

    shared: mmap.mmap | None = None
    number = 0


slot = Slot()


def suspend_limit() -> None:
    """From here on the time limit of this thread's job does not hold."""
    if slot.shared is not None:
        slot.shared[slot.number] = 1
