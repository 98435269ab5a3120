"""What somebody who keeps books of their own is told of the jobs a worker holds, by a process beside the worker.

A database that hangs then holds up neither Redis nor the limits of running jobs. Where the hooks are not heard, their books
must find out by the silence.
"""

from __future__ import annotations

import marshal
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NoReturn, Protocol

from monolith.runner.prefork.child import PACKET, become_child


class Hooks(Protocol):
    """Each may be called in a process of its own, after `prepare`, but for `refuses`."""

    def refuses(self, job_id: str, fields: dict[bytes, bytes]) -> str:
        """Why the worker must not run what it has found in Redis, `fields` being the job's hash; nothing when it may."""

    def prepare(self) -> None:
        """In every forked process, before anything else: connections of the parent are not to be used."""

    def heartbeat(self, job_ids: list[str]) -> Iterable[str]:
        """These jobs are being run; gives those that are still ours."""

    def lost(self, job_id: str, why: str) -> None:
        """The job's process died. `why` is `timeout` when it was killed for being late."""

    def interrupted(self, job_ids: list[str]) -> None:
        """The worker stops, or something else than the job: it is not the job's fault."""

    def stopped(self, job_id: str) -> None:
        """RQ's stop command ended the job."""


class HookProcess:
    """The process that calls the hooks, one after the other, as the parent sees it."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._mouth, self._ear = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._untold: deque[bytes] = deque()
        self._is_beating = False
        self.pid = 0
        self._mouth.setblocking(False)

    def start(self, close: Callable[[], None], log: Any) -> None:
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                become_child(parent)
                close()
                self._mouth.close()
                self._hooks.prepare()
                self._serve(log)
            finally:
                os._exit(1)

    def _serve(self, log: Any) -> NoReturn:
        while said := self._ear.recv(PACKET):
            name, *arguments = marshal.loads(said)
            answer: list[str] = []
            try:
                answer = list(getattr(self._hooks, name)(*arguments) or ())
            except Exception:  # the books find out by the silence
                log.exception("The hook %s failed", name)
                answer = arguments[0] if name == "heartbeat" else []
            if name == "heartbeat":
                self._ear.send(marshal.dumps(answer))
        os._exit(0)

    def forget(self) -> None:
        """For a forked child."""
        self._mouth.close()
        self._ear.close()

    def fileno(self) -> int:
        return self._mouth.fileno()

    def tell(self, name: str, *arguments: Any) -> None:
        """Never waits; what cannot be sent now is sent with the next."""
        self._untold.append(marshal.dumps((name, *arguments)))
        self.flush()

    def beat(self, job_ids: list[str]) -> None:
        """Say that these live, unless the last time was not answered yet."""
        if not self._is_beating:
            self._is_beating = True
            self.tell("heartbeat", job_ids)

    def held(self) -> set[str] | None:
        """What the last `beat` was answered; None when there is nothing new."""
        with suppress(BlockingIOError, ConnectionError):
            if said := self._mouth.recv(PACKET):
                self._is_beating = False
                return set(marshal.loads(said))
        return None

    def flush(self) -> None:
        with suppress(BlockingIOError, ConnectionError):
            while self._untold:
                self._mouth.send(self._untold[0])
                self._untold.popleft()

    def has_died(self) -> bool:
        with suppress(ChildProcessError):
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return True

    def replaced(self) -> HookProcess:
        """Another, for one that has died, with what was not told yet."""
        other = HookProcess(self._hooks)
        other._untold = self._untold
        self.forget()
        return other

    def leave(self) -> None:
        """Nothing more will be told: let it end when it has told all."""
        self.flush()
        self._mouth.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
