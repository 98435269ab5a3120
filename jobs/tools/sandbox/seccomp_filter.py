"""The system call filter (seccomp) of a sandbox.

It denies calls whose memory no limit counts (memfd, System V shared memory and queues), and calls that no project needs but that
attacks on the kernel begin with. A denied call fails with ENOSYS, so that programs fall back to something else.
"""

from __future__ import annotations

import errno
import platform
import struct

MACHINES = ("x86_64", "aarch64")
# The number of each call, on x86_64 and on aarch64.
DENIED = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "mount": (165, 40),
}
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_NUMBERS = 0x40000000  # x86_64 has a second set of numbers from here on
LOAD, IS, IS_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # BPF opcodes
NUMBER, ARCHITECTURE = 0, 4  # offsets in seccomp_data
ALLOW, DENY = 0x7FFF0000, 0x00050000 | errno.ENOSYS


def unsupported_reason() -> str | None:
    """Returns why there is no filter for this machine, or None."""
    machine = platform.machine()
    return None if machine in MACHINES else f"Projects run on {' and '.join(MACHINES)} only, and this machine is {machine}."


def build_filter() -> bytes:
    """Returns the filter for this machine as a BPF program, which bubblewrap reads."""
    machine = platform.machine()
    numbers = sorted(numbers[MACHINES.index(machine)] for numbers in DENIED.values())
    length = len(numbers)
    program = [
        (LOAD, 0, 0, ARCHITECTURE),
        (IS, 0, length + 3, ARCHITECTURES[machine]),  # another architecture: jump to the last line
        (LOAD, 0, 0, NUMBER),
        (IS_AT_LEAST, length + 1, 0, X32_NUMBERS),
        *((IS, length - place, 0, number) for place, number in enumerate(numbers)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, DENY),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in program)
