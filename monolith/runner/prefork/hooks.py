"""Hooks for whoever keeps a record of jobs besides RQ's, called in a process beside the worker: the hook process.

With hooks, a job runs only after the record has claimed it, and Redis learns of its end only after the record has it. The parent
asks, and goes on; the hook process answers what has arrived in the meantime together, so the record sees few statements for many
jobs. A database that hangs delays neither Redis nor the time limits of running jobs.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn, Protocol

from monolith.linux.processes import is_frozen, name_us
from monolith.runner.prefork.child import LENGTH, PACKET, become_child
from monolith.runner.prefork.task import Task

HEARTBEAT_S = 5.0  # between two heartbeats of the jobs that the worker holds
UNCONFIRMED_S = 3.0  # then a heartbeat that is not answered is late
RETRY_S = 1.0  # between two attempts of what was answered with `LATER`
FROZEN_S = 10.0  # a process that is frozen (SIGSTOP) and owes an answer for so long is replaced
LEAVING_S = 3.0  # how long the process has for what it was asked when the worker ends
LATER = "later"  # an answer: the database is away, ask again
FIRST = ("claim_again", "claim")  # children wait for claims; nobody waits for the rest
Claim = tuple[str, int]  # a job's id and the number of its claim


class Hooks(Protocol):
    """The parent calls `why_refused`, and children call `run`. All others are called in the hook process.

    These take a list, what the parent has asked since the last call, and return the answer to each, or `LATER`.
    """

    def why_refused(self, job_id: str, fields: dict[bytes, bytes]) -> str:
        """Why the worker must not run this job, `fields` being its hash in Redis; empty when it may."""

    def prepare(self) -> None:
        """Called first in every forked process: the parent's connections must not be used there."""

    def prepare_hook_process(self) -> None:
        """Called next in the hook process."""

    def kept(self) -> list[Claim]:
        """Runs that have ended and wait to be recorded: the worker says in Redis that it holds them."""

    def run(self, job_id: str, number: int, claimed: bytes) -> bytes:
        """Run a claimed job within its time limit. Returns how it ended, for `record`; empty when there is nothing to record any more."""

    def claim(self, job_ids: list[str]) -> Sequence[tuple[int, bytes] | str | None]:
        """Claim jobs: the number of the claim and what `run` gets; None for a job that must not run now."""

    def claim_again(self, jobs: list[tuple[str, list[int]]]) -> Sequence[tuple[int, bytes] | str | None]:
        """As `claim`, where an earlier process may have claimed the jobs and died before it could answer.

        With each job come the claims of it that the worker has: those were answered.
        """

    def give_back(self, claims: list[Claim]) -> Sequence[Any]:
        """The jobs were claimed and have not begun: another worker runs them."""

    def record(self, endings: list[tuple[str, int, bytes]]) -> Sequence[Any]:
        """Record how jobs ended: the claim, and what `run` has returned. May be called twice for one."""

    def heartbeat(self, claims: list[Claim]) -> Sequence[bool | str]:
        """The worker holds these jobs. Whether each is still its; until one is answered, the worker says in Redis that it holds it."""

    def lost(self, ended: list[tuple[str, int, str]]) -> Sequence[Any]:
        """The job's process died, with the reason: `timeout` if it was killed for exceeding the limit."""

    def interrupted(self, claims: list[Claim]) -> Sequence[Any]:
        """The worker stops, or had to end the jobs because of another one: it is not their fault."""

    def stopped(self, claims: list[Claim]) -> Sequence[Any]:
        """RQ's stop command ended the job."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the hook `name` answered about a task."""

    name: str
    task: Task
    value: Any


class HookProcess:
    """The hook process as the parent sees it. Started at once, and again if it dies: then it is asked again what it has not answered."""

    def __init__(self, hooks: Hooks, worker: Any, close_inherited: Callable[[], None], claimed: Callable[[], list[Task]]) -> None:
        self._hooks = hooks
        self._close_inherited = close_inherited
        self._claimed = claimed  # the tasks that the worker holds under a claim
        self._worker = worker
        self._tickets = count(1)
        self._asked: dict[int, tuple[str, Task, Any]] = {}  # what was not answered yet, by ticket
        self._claiming: set[str] = set()  # ids of the jobs whose claim is not answered
        self._beating: dict[str, float] = {}  # executions whose heartbeat is not answered, and since when
        self._unpacked: list[tuple[int, str, Any]] = []
        self._unsent = bytearray()
        self._heartbeat_at = 0.0
        self._owing_since = 0.0  # its last answer, or the question after that
        self._start()

    def _start(self) -> None:
        self._socket, self._hooks_socket = socket.socketpair()
        self._socket.setblocking(False)
        self._unsent.clear()
        self._received = bytearray()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                become_child(parent)
                name_us("rq-hooks")
                self._close_inherited()
                self._socket.close()
                self._hooks.prepare()
                self._hooks.prepare_hook_process()
                _Server(self._hooks, self._hooks_socket, self._worker).serve()
            finally:
                os._exit(1)

    def close(self) -> None:
        """Close this process's copies of the sockets."""
        self._socket.close()
        self._hooks_socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether the socket is full, and more is to be sent when it can be written again."""
        return bool(self._unsent)

    # ---- asking

    @property
    def tasks(self) -> list[Task]:
        """The tasks that wait for their claim or for their end to be recorded."""
        return [task for name, task, _ in self._asked.values() if name != "heartbeat"]

    @property
    def is_idle(self) -> bool:
        return all(name == "heartbeat" for name, *_ in self._asked.values())

    @property
    def unconfirmed(self) -> list[Task]:
        """The tasks that the worker holds, and whose heartbeats the record has not taken for some seconds."""
        late = time.monotonic() - UNCONFIRMED_S
        if all(asked_at > late for asked_at in self._beating.values()):
            return []
        return [task for task in self._claimed() if self._beating.get(task.composite_key, late) < late]

    def is_claiming(self, job_id: str) -> bool:
        """Whether a claim of this job was asked for and is not answered."""
        return job_id in self._claiming

    def ask(self, name: str, task: Task, argument: Any) -> None:
        """Have a hook called for this task. It is sent with the next `exchange`."""
        if not self._asked:
            self._owing_since = time.monotonic()
        ticket = next(self._tickets)
        self._asked[ticket] = name, task, argument
        if name == "claim":
            self._claiming.add(task.job_id)
        if name == "heartbeat":
            self._beating[task.composite_key] = time.monotonic()
        self._unpacked.append((ticket, name, argument))

    def ask_heartbeats(self) -> None:
        """Ask for the heartbeat of the tasks that the worker holds, when it is time to and the last one is answered."""
        if time.monotonic() >= self._heartbeat_at:
            self._heartbeat_at = time.monotonic() + HEARTBEAT_S
            for task in self._claimed():
                if task.composite_key not in self._beating:
                    self.ask("heartbeat", task, (task.job_id, task.claim_number))

    def exchange(self) -> Iterator[Answer]:
        """Send what was asked and return what was answered. Never blocks."""
        self._send()
        with suppress(BlockingIOError, ConnectionError):
            while received := self._socket.recv(PACKET):
                self._received += received
        for answers in _frames(self._received):
            self._owing_since = time.monotonic()
            for ticket, value in answers:
                name, task, _ = self._asked.pop(ticket)
                if name == "claim":
                    self._claiming.remove(task.job_id)
                if name == "heartbeat":
                    del self._beating[task.composite_key]
                yield Answer(name, task, value)
        if self._asked and time.monotonic() > self._owing_since + FROZEN_S and is_frozen(self.pid):
            self._worker.log.error("Worker %s: the hook process is frozen", self._worker.name)
            os.kill(self.pid, signal.SIGKILL)
            self._owing_since = time.monotonic()
        if self._has_died():
            self._worker.log.error("Worker %s: the hook process died", self._worker.name)
            self.close()
            self._start()
            self._ask_again()

    def _send(self) -> None:
        if self._unpacked:
            self._unsent += _frame(self._unpacked)
            self._unpacked.clear()
        with suppress(BlockingIOError, ConnectionError):
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]

    def _ask_again(self) -> None:
        claims = [(task.job_id, task.claim_number) for task in self._claimed()]
        self._unpacked = []
        for ticket, (name, task, argument) in self._asked.items():
            if name == "claim":
                numbers = [number for job_id, number in claims if job_id == task.job_id]
                self._unpacked.append((ticket, "claim_again", (task.job_id, numbers)))
            else:
                self._unpacked.append((ticket, name, argument))
        self._send()

    def _has_died(self) -> bool:
        with suppress(ChildProcessError):
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return True

    def leave(self) -> None:
        """End the process after it has done what it was asked, LEAVING_S seconds later at most."""
        give_up_at = time.monotonic() + LEAVING_S
        self._send()
        while self._unsent and time.monotonic() < give_up_at:
            select.select([], [self._socket], [], 0.1)
            self._send()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        while not self._has_died() and time.monotonic() < give_up_at:
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class _Server:
    """What runs in the hook process: it calls each hook once for all that has arrived."""

    def __init__(self, hooks: Hooks, connection: socket.socket, worker: Any) -> None:
        self._hooks = hooks
        self._connection = connection
        self._worker = worker
        self._received = bytearray()
        self._waiting: list[tuple[int, str, Any]] = []  # ticket, name, argument
        self._put_off: list[tuple[int, str, Any]] = []  # what was answered with `LATER`
        self._retry_at = 0.0
        self._is_over = False

    def serve(self) -> NoReturn:
        while not self._is_over:
            self._receive()
            self._answer()
        os._exit(0)

    def _receive(self) -> None:
        """Wait for something, and take all that has arrived. What was put off comes again with it when it is time to."""
        select.select([self._connection], [], [], max(0.0, self._retry_at - time.monotonic()) if self._put_off else None)
        with suppress(BlockingIOError):
            while received := self._connection.recv(PACKET, socket.MSG_DONTWAIT):
                self._received += received
            self._is_over = True
        for asked in _frames(self._received):
            self._waiting += asked
        if self._is_over or time.monotonic() >= self._retry_at:
            self._waiting += self._put_off
            self._put_off.clear()

    def _answer(self) -> None:
        asked, self._waiting = self._waiting, []
        names = sorted({name for _, name, _ in asked}, key=lambda name: name not in FIRST)
        for name in names:
            of_name = [one for one in asked if one[1] == name]
            answers = self._call(name, [argument for *_, argument in of_name])
            if later := [one for one, answer in zip(of_name, answers, strict=True) if answer == LATER]:
                if not self._put_off:
                    self._retry_at = time.monotonic() + RETRY_S
                self._put_off += later
            ready = [(ticket, answer) for (ticket, *_), answer in zip(of_name, answers, strict=True) if answer != LATER]
            if ready:
                with suppress(ConnectionError):
                    self._connection.sendall(_frame(ready))

    def _call(self, name: str, arguments: list[Any]) -> Sequence[Any]:
        try:
            answers: Sequence[Any] = getattr(self._hooks, name)(arguments)
            return answers
        except Exception:
            if len(arguments) > 1 and not name.startswith("claim"):  # one that fails must not take the others with it
                return [answer for one in arguments for answer in self._call(name, [one])]
            self._worker.log.exception("Worker %s: the hook %s failed", self._worker.name, name)
            return [name == "heartbeat" or None] * len(arguments)


def _frame(content: Any) -> bytes:
    packed = marshal.dumps(content)
    return LENGTH.pack(len(packed)) + packed


def _frames(received: bytearray) -> Iterator[Any]:
    """Remove and return the whole frames."""
    while len(received) >= LENGTH.size:
        end = LENGTH.size + LENGTH.unpack_from(received)[0]
        if len(received) < end:
            return
        content = marshal.loads(received[LENGTH.size : end])
        del received[:end]
        yield content
