"""Temporary work directories in which projects are unpacked: one for each run, removed after it, whatever ends the run.

A killed worker cannot clean up. So each directory is locked while its run lives, and creating a new one removes those that are
no longer locked.
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
MIN_AGE_S = 60.0  # a younger directory may have been created and not yet be locked


@contextmanager
def work_dir() -> Iterator[Path]:
    """Creates a directory and removes it on exit."""
    _remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name, _locked(Path(name)):
        yield Path(name)


def _remove_abandoned() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, in use, or removed already
            found = path.lstat()
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > MIN_AGE_S:
                with _locked(path):
                    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the directory's lock. Raises OSError if it is locked or not a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
