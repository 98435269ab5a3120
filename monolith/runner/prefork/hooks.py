"""Hooks for whoever keeps a record of jobs besides RQ's, called in a process beside the worker.

So a database that hangs delays neither Redis nor the time limits of running jobs. Where a hook fails, that record must notice
the missing heartbeats.
"""

from __future__ import annotations

import marshal
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NoReturn, Protocol

from monolith.runner.prefork.child import PACKET, become_child

HEARTBEAT_S = 5.0  # between two heartbeats of the running jobs
LEAVING_S = 3.0  # how long the process has to make the last calls when the worker ends


class Hooks(Protocol):
    """`why_refused` is called by the parent. The others are called in a process of their own, after `prepare`."""

    def why_refused(self, job_id: str, fields: dict[bytes, bytes]) -> str:
        """Why the worker must not run this job, `fields` being its hash in Redis; empty when it may."""

    def prepare(self) -> None:
        """Called first in every forked process: the parent's connections must not be used there."""

    def heartbeat(self, job_ids: list[str]) -> Iterable[str]:
        """These jobs are running. Returns those that are still this worker's."""

    def lost(self, job_id: str, why: str) -> None:
        """The job's process died. `why` is `timeout` if it was killed for exceeding the limit."""

    def interrupted(self, job_ids: list[str]) -> None:
        """The worker stops, or had to end the jobs because of another one: it is not their fault."""

    def stopped(self, job_id: str) -> None:
        """RQ's stop command ended the job."""


class HookProcess:
    """The process that calls the hooks one after the other, as the parent sees it. Started at once, and again if it dies."""

    def __init__(self, hooks: Hooks, worker: Any, close_inherited: Callable[[], None]) -> None:
        self._hooks = hooks
        self._close_inherited = close_inherited
        self._worker = worker
        self._unsent: deque[bytes] = deque()
        self._heartbeat_at = 0.0
        self._start()

    def _start(self) -> None:
        self._socket, self._hooks_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._awaits_answer = False
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                become_child(parent)
                self._close_inherited()
                self._socket.close()
                self._hooks.prepare()
                self._serve()
            finally:
                os._exit(1)

    def _serve(self) -> NoReturn:
        while packet := self._hooks_socket.recv(PACKET):
            name, *arguments = marshal.loads(packet)
            answer: list[str] = []
            try:
                answer = list(getattr(self._hooks, name)(*arguments) or ())
            except Exception:
                self._worker.log.exception("The hook %s failed", name)
                answer = arguments[0] if name == "heartbeat" else []
            if name == "heartbeat":
                self._hooks_socket.send(marshal.dumps(answer))
        os._exit(0)

    def close(self) -> None:
        """Close this process's copies of the sockets."""
        self._socket.close()
        self._hooks_socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def call(self, name: str, *arguments: Any) -> None:
        """Have a hook called. Never blocks: what cannot be sent now is sent with the next call."""
        self._unsent.append(marshal.dumps((name, *arguments)))
        self._flush()

    def _flush(self) -> None:
        with suppress(BlockingIOError, ConnectionError):
            while self._unsent:
                self._socket.send(self._unsent[0])
                self._unsent.popleft()

    def exchange_heartbeats(self, running: Callable[[], list[str]]) -> set[str] | None:
        """Send the ids of the running jobs when it is time to, and restart the process if it has died.

        Returns the ids that the last heartbeat confirmed; None when there is no new answer.
        """
        self._flush()
        held = None
        with suppress(BlockingIOError, ConnectionError):
            if answer := self._socket.recv(PACKET):
                self._awaits_answer = False
                held = set(marshal.loads(answer))
        if time.monotonic() >= self._heartbeat_at and (job_ids := running()):
            self._heartbeat_at = time.monotonic() + HEARTBEAT_S
            if not self._awaits_answer:
                self._awaits_answer = True
                self.call("heartbeat", job_ids)
        if self._has_died():
            self._worker.log.error("Worker %s: the hook process died", self._worker.name)
            self.close()
            self._start()
        return held

    def _has_died(self) -> bool:
        with suppress(ChildProcessError):
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return True

    def leave(self) -> None:
        """End the process after the last calls, LEAVING_S seconds later at most."""
        self._flush()
        self._socket.shutdown(socket.SHUT_WR)
        give_up_at = time.monotonic() + LEAVING_S
        while not self._has_died() and time.monotonic() < give_up_at:
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
