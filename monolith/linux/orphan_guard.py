"""Run as a program beside a worker, which it outlives: it then kills what still bears the worker's mark. See `kernel.leave_guard`.

It is started anew and not forked: a fork would hold on to all the memory that the worker writes to afterwards.
"""

import os
import signal
import sys


def main(mark: str) -> None:
    """Wait for the end of all who hold the other end of our standard input, then kill every process with the mark in its environment."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.read(0, 1)
    for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - pathlib would double our memory
        try:
            with open(f"/proc/{pid}/environ", "rb") as environment:  # noqa: PTH123
                if mark.encode() in environment.read().split(b"\0"):
                    os.kill(int(pid), signal.SIGKILL)
        except OSError:
            continue  # it is gone, or not ours


if __name__ == "__main__":
    main(sys.argv[1])
