"""A program that outlives a worker and then kills every process that has the worker's mark. See `processes.OrphanGuard`.

It is a new process and not a fork: a fork would keep all the memory that the worker writes to afterwards.
"""

import os
import signal
import sys


def main(mark: str) -> None:
    """Wait until all processes with the other end of our standard input have ended, then kill all with the mark in their environment."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.read(0, 1)
    for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - pathlib would double our memory
        try:
            with open(f"/proc/{pid}/environ", "rb") as environment:  # noqa: PTH123
                if mark.encode() in environment.read().split(b"\0"):
                    os.kill(int(pid), signal.SIGKILL)
        except OSError:
            continue  # it is gone, or another user's


if __name__ == "__main__":
    main(sys.argv[1])
