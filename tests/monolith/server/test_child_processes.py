"""A fork that is kept running is like a program that was just started."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from monolith.server.child_processes import ForkedChild, StopSignal, end
from tests.support.processes import until


def test_a_fork_has_a_session_and_signals_of_its_own_and_no_input(tmp_path: Path) -> None:
    def look() -> None:
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
        is_new = handlers == [signal.SIG_DFL, signal.SIG_DFL, signal.default_int_handler] and not signal.pthread_sigmask(
            signal.SIG_BLOCK, ()
        )
        (tmp_path / "found").write_text(f"{os.getsid(0) == os.getpid()} {is_new} {os.read(0, 1)!r}")

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    stop = StopSignal()
    try:
        assert _exit_code(look) == 0
    finally:
        stop.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (tmp_path / "found").read_text() == "True True b''"


@pytest.mark.parametrize(
    ("work", "code"),
    [(lambda: None, 0), (lambda: sys.exit(3), 3), (lambda: os.kill(os.getpid(), signal.SIGTERM), -signal.SIGTERM)],
    ids=["it returns", "it exits", "it is killed"],
)
def test_a_fork_ends_as_its_function_does(work: Callable[[], None], code: int) -> None:
    assert _exit_code(work) == code


def test_a_fork_whose_function_raises_shows_where(capfd: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(lambda: [].pop()) == 1
    assert "IndexError" in capfd.readouterr().err


def test_a_fork_that_died_is_started_again_and_ended_with_the_others() -> None:
    child = ForkedChild("sleeper", signal.pause)
    child.start()
    first = child.pid
    os.kill(first, signal.SIGKILL)

    def is_back() -> bool:
        child.keep_alive()
        return child.lives() and child.pid != first

    until(is_back)
    end([child], 5)
    assert not child.lives()


def _exit_code(work: Callable[[], None]) -> int | None:
    child = ForkedChild("child", work)
    child.start()
    until(lambda: not child.lives())
    assert child._process
    return child._process.returncode
