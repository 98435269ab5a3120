"""Read a stranger's PDF or Word file in a process of its own, under limits of the kernel, without our settings or a file to write to.

A file that is made to take all memory or time ends that process, and the job says so.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from monolith.runner.registry import Permanent

ROOT = Path(__file__).resolve().parent.parent.parent
MEMORY = 1024 * 1024 * 1024  # bytes of address space
CPU_S = 60
WALL_S = 240  # on a machine with much else to do
REFUSED, TOO_LARGE = 3, 4  # exit codes: what is printed is why; it does not fit into MEMORY


def text_apart(kind: str, content: bytes) -> str:
    """The text of a `pdf` or `docx`. Raises `Permanent` where it has none, or takes more than the limits."""
    command = [sys.executable, "-m", "jobs.tools.apart", kind, str(MEMORY), str(CPU_S)]
    env = {"PYTHONPATH": str(ROOT), "RQ_JOB_ID": os.environ.get("RQ_JOB_ID", "")}  # the latter as for a sandbox
    try:
        done = subprocess.run(command, input=content, capture_output=True, env=env, cwd=ROOT, timeout=WALL_S)  # noqa: S603 - our own
    except subprocess.TimeoutExpired:
        raise _too_long() from None
    return _said(done)


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode == 0:
        return said
    if done.returncode == REFUSED:
        raise Permanent(said)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise _too_long()
    if done.returncode == TOO_LARGE or done.returncode < 0:  # C code that gets no memory ends its process
        megabytes = MEMORY // 1024 // 1024
        raise Permanent(
            f"The document takes more than {megabytes:,} MB of memory to read. Export it again, or split it and submit the parts."
        )
    raise RuntimeError(f"The reader of documents failed: {done.stderr.decode(errors='replace')[-2000:]}")


def _too_long() -> Permanent:
    return Permanent(f"The document takes more than {CPU_S} s to read. Export it again, or split it and submit the parts.")


def main() -> None:
    """In the process of its own: read what comes, print its text."""
    kind, memory, cpu_s = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    for nothing in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(nothing, (0, 0))
    try:
        from jobs.tools import extract

        text = extract.READERS[kind](sys.stdin.buffer.read())
    except Permanent as refused:
        sys.stdout.buffer.write(str(refused).encode())
        sys.exit(REFUSED)
    except MemoryError:
        sys.exit(TOO_LARGE)
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))


if __name__ == "__main__":
    main()
