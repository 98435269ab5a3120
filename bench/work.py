"""The jobs that are measured. Each appends when it was submitted, began and ended to one file, so that telling loads no Redis.

Imports next to nothing: stock RQ imports this file again in the process of every job, and should not pay for ours.
"""

from __future__ import annotations

import os
import time
from array import array
from functools import cache

RECORDS = "INTRAY_BENCH_RECORDS"  # the variable that names the file
RECORD_BYTES = 24
NAP_S = 0.05


def noop(submitted_at: float) -> None:
    _record(submitted_at, time.time())


def nap(submitted_at: float) -> None:
    """Wait as for an answer of the network."""
    began = time.time()
    time.sleep(NAP_S)
    _record(submitted_at, began)


def _record(submitted_at: float, began: float) -> None:
    os.write(_file(), array("d", (submitted_at, began, time.time())).tobytes())  # one write at the end: records of processes never mix


@cache
def _file() -> int:
    return os.open(os.environ[RECORDS], os.O_WRONLY | os.O_APPEND)
