"""Requests at a given pace, whatever the server does: one that is late is not waited for, and what it keeps waiting counts as its time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

CONNECTIONS = 16
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Answer:
    """`ms` is from when the request was due; `status` is 0 where no answer came."""

    due_at: float
    ms: float
    status: int


def send(port: int, path: str, headers: dict[str, str], body: Callable[[int], bytes], per_s: float, seconds: float) -> list[Answer]:
    """POST `body(number)` so often for so long; every answer, in no order."""
    numbers, answers, began_at = itertools.count(), list[Answer](), time.monotonic()
    last = int(per_s * seconds)

    def work() -> None:
        caller = Caller(port, path, headers)
        while (number := next(numbers)) < last:
            due_at = began_at + number / per_s
            time.sleep(max(0.0, due_at - time.monotonic()))
            answers.append(caller.post(due_at, body(number)))

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


class Caller:
    """One connection that is kept, and made anew after an error."""

    def __init__(self, port: int, path: str, headers: dict[str, str]) -> None:
        self._path, self._headers = path, headers
        self._connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def post(self, due_at: float, body: bytes) -> Answer:
        status = 0
        try:
            self._connection.request("POST", self._path, body, self._headers)
            answer = self._connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, HTTPException):
            self._connection.close()
        return Answer(due_at, (time.monotonic() - due_at) * 1000, status)
