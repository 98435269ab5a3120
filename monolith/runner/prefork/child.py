"""What runs in a child: it receives jobs from its inbox, runs them and reports how they ended.

A child has no connection to Redis. An ordinary child runs one job at a time in its main thread. A child for I/O-bound jobs runs up
to WAITING_PER_CHILD at once, each in a thread, and its main thread enforces their time limits.
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
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from rq.defaults import UNSERIALIZABLE_RETURN_VALUE_PAYLOAD
from rq.executions import Execution
from rq.job import Job, Retry
from rq.job_lifecycle import format_exc_info
from rq.timeouts import JobTimeoutException

from monolith.linux.process_state import ProcessState
from monolith.linux.processes import ForksEndHere, dying_with, end_children, has_children, inherit_orphans

if TYPE_CHECKING:
    from rq.queue import Queue

# Returned a result; raised, with a trace; recorded by RQ's own code; stopped on request; ended in a way that the hooks have to record.
DONE, FAILED, HANDLED, STOPPED, ENDED = range(5)
RUN, STOP = range(2)  # the kinds of packets to a child
PACKET = 256 * 1024
LENGTH = struct.Struct("<I")
MAX_TRACE = 20_000
IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


GROWTH_S = 0.01  # between two looks at the memory: no job grows by much in less


class Stopped(BaseException):
    """The job was stopped on request. Derived from BaseException, so that no `except Exception` of the job catches it."""


class Assignment(NamedTuple):
    """One job to run, as its packet says."""

    ticket: int
    slot: int
    job_id: str
    queue: Queue
    execution_id: str
    taken_at: float
    is_plain: bool
    limit: float
    fields: dict[bytes, bytes]
    claim_number: int
    claimed: bytes | None


class JobRunner:
    """Runs jobs and reports their outcome: what both kinds of children share."""

    def __init__(self, worker: Any, inbox: socket.socket, outbox: socket.socket, recording: mmap.mmap, growth_limit: int) -> None:
        self._worker = worker
        self._queues = {queue.name: queue for queue in worker.queues}
        self._inbox = inbox
        self._outbox = outbox
        self._recording = recording
        self._packet = memoryview(bytearray(PACKET))
        self._max_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + growth_limit // 1024
        self._memory_at = 0.0
        self._sending = threading.Lock()
        self.state = ProcessState()

    def receive(self) -> Assignment | int:
        """Wait for the next packet: a job to run, or the ticket of a job to stop. Exits when the parent has closed the inbox."""
        size = self._inbox.recv_into(self._packet)
        if not size:
            os._exit(0)
        kind, ticket, *rest = marshal.loads(self._packet[:size])
        if kind == STOP:
            return int(ticket)
        slot, job_id, queue, *others = rest
        return Assignment(ticket, slot, job_id, self._queues[queue], *others)

    def run(
        self, assignment: Assignment, limited: Callable[[Assignment, Callable[[], Any]], Any], *, is_unspoilt: Callable[[], bool]
    ) -> bool:
        """Run the job and send its outcome. `limited` calls a function under the job's time limit.

        Returns `is_unspoilt`: whether other jobs can run in this process afterwards; if not, it is replaced.
        """
        current_slot.recording, current_slot.number = self._recording, assignment.slot
        started = time.monotonic()
        if assignment.claimed is not None:
            how, payload = self._run_claimed(assignment, limited)
        elif assignment.is_plain:
            how, payload = self._run_plain(assignment, limited)
        else:
            how, payload = HANDLED, self._run_by_rq(assignment)
        self._recording[assignment.slot] = 0
        unspoilt = is_unspoilt()
        message = marshal.dumps((assignment.ticket, how, payload, time.monotonic() - started, self._has_grown() or not unspoilt))
        with self._sending:
            self._outbox.sendall(LENGTH.pack(len(message)) + message)
        return unspoilt

    def _has_grown(self) -> bool:
        if time.monotonic() < self._memory_at:
            return False
        self._memory_at = time.monotonic() + GROWTH_S
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > self._max_memory

    def _run_plain(self, assignment: Assignment, limited: Callable[[Assignment, Callable[[], Any]], Any]) -> tuple[int, bytes | str]:
        job = self._worker.job_class(assignment.job_id, connection=self._worker.connection, serializer=self._worker.serializer)
        try:
            job.restore(assignment.fields)
            value = limited(assignment, lambda: _perform(job))
            if isinstance(value, Retry):
                return HANDLED, self._retry(job, assignment, value)
            return DONE, self._serialized(value)
        except Stopped:
            return STOPPED, b""
        except BaseException:  # RQ records whatever ends a job, so we do
            exc_info = sys.exc_info()
            with suppress(Exception):
                self._worker.handle_exception(job, *exc_info)
            return FAILED, format_exc_info(exc_info)

    def _run_claimed(self, assignment: Assignment, limited: Callable[[Assignment, Callable[[], Any]], Any]) -> tuple[int, bytes | str]:
        hooks = self._worker.hooks
        try:
            ending = limited(assignment, lambda: hooks.run(assignment.job_id, assignment.claim_number, assignment.claimed or b""))
            return (ENDED, ending) if ending else (DONE, b"")
        except Stopped:
            return STOPPED, b""
        except BaseException:
            return FAILED, format_exc_info(sys.exc_info())[-MAX_TRACE:]

    def _serialized(self, value: Any) -> bytes:
        """The result in the format of RQ's `Result.serialize`; empty for None."""
        if value is None:
            return b""
        serializer = self._worker.serializer
        try:
            return b64encode(serializer.dumps(value))
        except BaseException:  # RQ promises that a result which cannot be stored fails no job
            return b64encode(serializer.dumps(UNSERIALIZABLE_RETURN_VALUE_PAYLOAD))

    def _run_by_rq(self, assignment: Assignment) -> bytes:
        """Run a job with unusual features through RQ's own code, with a connection for as long as that takes."""
        try:
            job = self._worker.job_class.fetch(assignment.job_id, connection=self._worker.connection, serializer=self._worker.serializer)
            with ForksEndHere():
                self._worker.perform_job(job, assignment.queue, self._execution(assignment, job))
        finally:
            self._worker.connection.connection_pool.disconnect()
        return b""

    def _retry(self, job: Job, assignment: Assignment, value: Retry) -> bytes:
        """Let RQ's own code record that the job has returned a `Retry`."""
        job.started_at, job.worker_name = datetime.fromtimestamp(assignment.taken_at, UTC), self._worker.name
        try:
            self._worker._finalize_success(job, assignment.queue, self._execution(assignment, job), value)
        finally:
            self._worker.connection.connection_pool.disconnect()
        return b""

    def _execution(self, assignment: Assignment, job: Job) -> Execution:
        execution = Execution(assignment.execution_id, assignment.job_id, self._worker.connection, self._worker.name)
        taken_at = str(assignment.taken_at)
        execution.restore({b"created_at": taken_at, b"last_heartbeat": taken_at, b"worker_name": execution.worker_name})
        execution._job = job
        return execution


def _perform(job: Job) -> Any:
    with ForksEndHere():
        return job.perform()


def work_alone(runner: JobRunner, death_penalty: Any) -> NoReturn:
    """Run one job after the other, forever. Ends every process that a job has left behind, and puts back what it has changed in ours."""

    def limited(assignment: Assignment, perform: Callable[[], Any]) -> Any:
        if assignment.claimed is not None:
            return perform()  # the hooks hold a limit of their own
        with death_penalty(int(assignment.limit), JobTimeoutException, job_id=assignment.job_id):
            return perform()

    while True:
        assignment = runner.receive()
        assert isinstance(assignment, Assignment)  # an ordinary child is killed to stop its job
        runner.state.set_variable("RQ_JOB_ID", assignment.job_id)
        is_unspoilt = runner.run(assignment, limited, is_unspoilt=runner.state.restore)
        if has_children():
            end_children()
        if not is_unspoilt:
            os._exit(0)  # what was sent ahead runs in another child


def work_io_bound(runner: JobRunner, inbox: socket.socket, slots: int) -> NoReturn:
    """Run up to `slots` I/O-bound jobs at once, forever, each in a thread. The main thread receives jobs and stops, and enforces limits."""
    threads = ThreadPoolExecutor(slots)
    running: dict[int, ThreadedJob] = {}

    def run(assignment: Assignment) -> None:
        threaded = running[assignment.ticket]
        threaded.thread = threading.get_ident()

        def limited(assignment: Assignment, perform: Callable[[], Any]) -> Any:
            with threaded:
                return perform()

        runner.run(assignment, limited, is_unspoilt=runner.state.is_unchanged)  # other jobs may rely on what one has changed
        del running[assignment.ticket]

    while True:
        deadline = min((one.deadline for one in list(running.values())), default=float("inf"))
        timeout = max(0.0, min(deadline - time.monotonic(), 3600.0))
        if select.select([inbox], [], [], timeout)[0]:
            packet = runner.receive()
            if isinstance(packet, Assignment):
                running[packet.ticket] = ThreadedJob(packet.limit)
                threads.submit(run, packet)
            elif packet in running:
                running[packet].interrupt(Stopped)
        for one in list(running.values()):
            if time.monotonic() >= one.deadline:
                one.interrupt(one.timeout_class)


class ThreadedJob:
    """A job in a thread, as a context manager around its run. Within, `interrupt` raises an exception in the thread.

    The thread meets the exception when it next runs Python code.
    """

    AGAIN_S = 1.0  # the exception is raised again after this, in case the job swallowed it

    def __init__(self, limit: float) -> None:
        self.thread = 0
        self.deadline = time.monotonic() + limit if limit > 0 else float("inf")
        # Only a class can be raised in another thread, and it gets no arguments: this one carries RQ's message.
        message = f"Task exceeded maximum timeout value ({limit:g} seconds)"
        attributes = {"__str__": lambda self: message, "__module__": JobTimeoutException.__module__}
        self.timeout_class: type[JobTimeoutException] = type("JobTimeoutException", (JobTimeoutException,), attributes)
        self._guard = threading.Lock()
        self._is_inside = False

    def __enter__(self) -> None:
        self._is_inside = True

    def __exit__(self, *error: Any) -> None:
        with self._guard:
            self._is_inside = False
            self._raise_in_thread(None)  # what was to be raised and has not been yet, must not be later

    def interrupt(self, error: type[BaseException]) -> None:
        self.deadline = time.monotonic() + self.AGAIN_S
        with self._guard:
            if self._is_inside:
                self._raise_in_thread(error)

    def _raise_in_thread(self, error: type[BaseException] | None) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), error and ctypes.py_object(error))


def become_child(parent: int) -> None:
    """Turn a newly forked process into a child: its own group, ignoring the host's signals, killed when the parent dies."""
    dying_with(parent, signal.SIGKILL)()
    inherit_orphans()
    os.setpgrp()
    signal.set_wakeup_fd(-1)
    for number in IGNORED_SIGNALS:
        signal.signal(number, lambda number, frame: None)  # and not SIG_IGN, which the programs that jobs start would inherit
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    random.seed()


class CurrentSlot(threading.local):
    """The byte that this thread's job shares with the parent of its process; `recording` is None outside of a child."""

    recording: mmap.mmap | None = None
    number = 0


current_slot = CurrentSlot()


def suspend_limit() -> None:
    """Tell the parent that this thread's job is done and records its outcome: its time limit no longer applies."""
    if current_slot.recording is not None:
        current_slot.recording[current_slot.number] = 1
