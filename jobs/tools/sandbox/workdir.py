"""Folders of this machine in which projects are unpacked: one for each run, and gone after it, whatever ends the run.

A worker that is killed cannot clear up. So each folder is locked while its run lives, and who makes a new one removes those that nobody
holds any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "intray-project-"
YOUNG_S = 60.0  # a folder may have been made and not yet be locked


@contextmanager
def workplace() -> Iterator[Path]:
    """A new folder, removed afterwards."""
    _clear_up()
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name, _locked(Path(name)):
        yield Path(name)


def _clear_up() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody else's, in use, or gone already
            found = path.lstat()
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > YOUNG_S:
                with _locked(path):
                    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises OSError when it is held, or no folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
