"""What the workers under test run: plain functions that know rq and the standard library only.

What they do is seen from outside by `record`: one line per event in the file that EFFECTS names.
"""

from __future__ import annotations

import collections
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from redis import Redis
from rq import Retry, get_current_job
from rq.job import Job

LONG_S = 600


def record(*words: object) -> None:
    """Append one line, whole, whoever else is writing."""
    file = os.open(os.environ["EFFECTS"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    try:
        os.write(file, (" ".join(str(word) for word in words) + "\n").encode())
    finally:
        os.close(file)


def _me() -> Job:
    job = get_current_job()
    assert job is not None
    return job


# ---- ends


def add(a: int, b: int = 0) -> int:
    return a + b


def echo(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"args": list(args), "kwargs": kwargs}


def nothing() -> None:
    pass


def note(word: str) -> str:
    record(word)
    return word


def ran() -> None:
    record("ran", _me().id)


def save_meta() -> str:
    job = _me()
    job.meta["seen"] = [1, 2]
    job.save_meta()
    return job.id


def origin() -> str:
    return str(_me().origin)


def fail() -> None:
    raise ValueError("on purpose")


def fail_first(times: int) -> str:
    """Fail so many times, then succeed."""
    record("attempt", _me().id)
    if Path(os.environ["EFFECTS"]).read_text().split("\n").count(f"attempt {_me().id}") <= times:
        raise ValueError("not yet")
    return "at last"


def ask_for_retry() -> Retry:
    record("attempt", _me().id)
    return Retry(max=2)


def quit_python() -> None:
    sys.exit(3)


def crash() -> None:
    record("begin", _me().id)
    os.kill(os.getpid(), signal.SIGKILL)


def fork_and_return_twice(leaving: bool = False) -> int:
    """Both processes come back; or the forked one leaves as a program does."""
    pid = os.fork()
    if pid == 0 and leaving:
        sys.exit(3)
    record("ran", _me().id, "fork" if pid == 0 else "job")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 0


def write_to_every_socket() -> None:
    """What a library may do that closes or uses descriptors it does not own."""
    for path in Path("/proc/self/fd").iterdir():
        if path.is_socket():
            os.write(int(path.name), b"\x08\0\0\0 garbage")
    time.sleep(LONG_S)


def spoil_the_process() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    spoil_from_a_thread()


def spoil_from_a_thread() -> None:
    """What any thread can change in its process."""
    os.environ.clear()
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    os.chdir("/")
    os.umask(0)
    sys.path[:], sys.argv = [], ["spoilt"]
    sys.setrecursionlimit(500)
    sys.stdout = sys.stderr


def process_state() -> str:
    mask = os.umask(0)
    os.umask(mask)
    blocked = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    python = sys.path, sys.argv, sys.getrecursionlimit(), sys.stdout is sys.__stdout__, time.timezone
    names = sorted(set(os.environ) - {"RQ_JOB_ID"})
    return f"{os.getpid()} {Path.cwd()} {mask} {blocked} {signal.getsignal(signal.SIGUSR1)} {names} {python}"


def unserialisable() -> Any:
    return threading.Lock()


def blob(size: int) -> str:
    return "x" * size


def length(text: str) -> int:
    return len(text)


# ---- takes its time


def nap(seconds: float) -> None:
    record("begin", _me().id)
    time.sleep(seconds)
    record("end", _me().id)


def sleep_loop() -> None:
    """Python code that would take for ever, in steps that an exception can end."""
    record("begin", _me().id)
    for _ in range(LONG_S * 20):
        time.sleep(0.05)
    record("end", _me().id)


def wait_for(gate: str = "gate") -> str:
    """Run until the test opens this gate, which is a file."""
    record("begin", _me().id)
    while not Path(f"{os.environ['EFFECTS']}-{gate}").exists():
        time.sleep(0.02)
    record("end", _me().id)
    return "released"


# ---- will not end


def swallow() -> None:
    """Python code that survives any ordinary exception."""
    record("begin", _me().id)
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        try:
            time.sleep(0.05)
        except Exception:
            continue


def backtrack() -> None:
    """C code that holds the GIL for ever, and looks at signals."""
    record("begin", _me().id)
    re.match(r"(a+)+$", "a" * 64 + "b")


def consume() -> None:
    """C code that holds the GIL for ever, and looks at nothing."""
    record("begin", _me().id)
    collections.deque(itertools.repeat(0), maxlen=0)


def shell_tree() -> None:
    """A program in a session of its own that ignores SIGTERM and has a child."""
    record("begin", _me().id)
    subprocess.run(["setsid", "sh", "-c", f"trap '' TERM; sleep {LONG_S} & wait; sleep {LONG_S}"], check=False)


def leave_behind() -> None:
    """End normally, but leave a daemon running."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", str(LONG_S)])
        os._exit(0)
    os.wait()
    record("end", _me().id)


# ---- callbacks, which use the connection they are given


def on_success(job: Job, connection: Redis, result: Any) -> None:
    connection.hincrby("heard", f"success {job.id} {result}", 1)


def on_failure(job: Job, connection: Redis, kind: type[BaseException], error: BaseException, trace: Any) -> None:
    connection.hincrby("heard", f"failure {job.id} {kind.__name__} {error}", 1)


def on_stopped(job: Job, connection: Redis) -> None:
    connection.hincrby("heard", f"stopped {job.id}", 1)


def on_any_raise(job: Job, connection: Redis, *rest: Any) -> None:
    raise RuntimeError("in the callback")


def on_error(job: Job, kind: type[BaseException], error: BaseException, trace: Any) -> bool:
    """An exception handler, which `rq worker --exception-handler` names."""
    record("handled", job.id, kind.__name__, error)
    return False
