"""For the worker whose clock is wrong: libfaketime 0.9.10 answers EINVAL to the call beneath `time.sleep`."""

import select
import time


def sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = sleep
