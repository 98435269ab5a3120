"""What a job can change in its process for the jobs after it, and how that is put back."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes an enum of each number, which takes ten times as long
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any

SIGNALS = tuple(  # not SIGALRM, whose handler belongs to `time_limit`
    int(getattr(signal, name))
    for name in ("SIGCHLD", "SIGHUP", "SIGINT", "SIGPIPE", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGVTALRM", "SIGPROF")
)
_ENVIRONMENT: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]  # compared as it is: decoding it takes 50 times as long


class ProcessState:
    """The environment, folder, umask, signal handlers, module path and standard streams of this process, as they are now.

    Comparing them takes a few microseconds. What is not here stays as a job leaves it: variables of modules, limits of the kernel.
    """

    def __init__(self) -> None:
        self._folder = _folder()
        self._environment = _ENVIRONMENT.copy()
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._handlers = _signal_handlers()
        self._blocked = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
        self._path, self._words = sys.path, sys.argv
        self._in_path, self._in_words = [*sys.path], [*sys.argv]
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._recursion = sys.getrecursionlimit()

    def set_variable(self, name: str, value: str) -> None:
        """Set a variable of the environment, as a part of the state."""
        os.environ[name] = value
        key = os.fsencode(name)
        self._environment[key] = _ENVIRONMENT[key]

    def is_unchanged(self) -> bool:
        """Whether everything is as it was. A changed umask is put back. For any thread."""
        return (
            os.umask(self._umask) == self._umask
            and self._environment == _ENVIRONMENT
            and self._handlers == _signal_handlers()
            and sys.path is self._path
            and sys.argv is self._words
            and self._path == self._in_path
            and self._words == self._in_words
            and (sys.stdin, sys.stdout, sys.stderr) == self._streams
            and sys.getrecursionlimit() == self._recursion
            and _folder() == self._folder
            and not any(getattr(stream, "closed", False) for stream in self._streams)
        )

    def restore(self) -> bool:
        """Put back what was changed; False where that cannot be. For the main thread."""
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._blocked)
        if self.is_unchanged():
            return True
        for number, handler in zip(SIGNALS, self._handlers, strict=True):
            if handler is not None and _signal.getsignal(number) is not handler:
                _signal.signal(number, handler)
        sys.path, sys.argv = self._path, self._words
        self._path[:], self._words[:] = self._in_path, self._in_words
        sys.stdin, sys.stdout, sys.stderr = self._streams
        sys.setrecursionlimit(self._recursion)
        self._restore_environment()
        if self._folder:
            with suppress(OSError):  # somebody has deleted it
                os.chdir(self._folder)
        return self.is_unchanged()

    def _restore_environment(self) -> None:
        for key in _ENVIRONMENT.keys() - self._environment.keys():
            del os.environb[key]
        for key, value in self._environment.items():
            if _ENVIRONMENT.get(key) != value:
                os.environb[key] = value
        time.tzset()


def _signal_handlers() -> list[Any]:
    return [_signal.getsignal(number) for number in SIGNALS]


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a path object takes ten times as long
    except OSError:
        return None
