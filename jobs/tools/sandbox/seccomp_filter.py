"""What a sandbox may not ask of the kernel, as a filter that the kernel keeps to (seccomp).

Denied is what holds memory that no limit sees (files without a name, shared memory and queues of System V), and what no project needs
but attacks on the kernel begin with. A denied call fails as if the kernel did not have it, so that programs do without.
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
OTHER_NUMBERS = 0x40000000  # x86_64 has a second set of numbers from here on
LOAD, IS, IS_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # of the kernel's filter language
NUMBER, ARCHITECTURE = 0, 4  # where a call's number and architecture stand
ALLOW, DENY = 0x7FFF0000, 0x00050000 | errno.ENOSYS


def why_unknown() -> str | None:
    """Why no filter can be made for this machine, or None."""
    machine = platform.machine()
    return None if machine in MACHINES else f"Projects run on {' and '.join(MACHINES)} only, and this machine is {machine}."


def denying_filter() -> bytes:
    """The filter for this machine, as bubblewrap takes it."""
    machine = platform.machine()
    numbers = sorted(numbers[MACHINES.index(machine)] for numbers in DENIED.values())
    length = len(numbers)
    program = [
        (LOAD, 0, 0, ARCHITECTURE),
        (IS, 0, length + 3, ARCHITECTURES[machine]),  # anything else: to the last line
        (LOAD, 0, 0, NUMBER),
        (IS_AT_LEAST, length + 1, 0, OTHER_NUMBERS),
        *((IS, length - place, 0, number) for place, number in enumerate(numbers)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, DENY),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in program)
