"""Outcomes that the ledger does not take yet, on disk: one file for each run in the folder `outcomes` under INTRAY_HOME.

What a job has done is so not forgotten when its worker ends, and is not done again. `recorder` records it later. The files hold
results and attached files of jobs, so only their owner can read them. They are JSON: reading one runs no code.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import NamedTuple

import structlog

from monolith.config import MEGABYTE, settings
from monolith.logs import Fault
from monolith.runner.ledger.lifecycle import RunEnding
from monolith.runner.worker import transfer

FOLDER = "outcomes"
MAX_FILE = 32 * MEGABYTE
MAX_ALL = 256 * MEGABYTE
MAX_FILES = 1000
DISK_SHARE = 0.1  # a file takes at most this part of the free disk
KEPT_S = 3 * 24 * 3600  # then an outcome is given up
ABANDONED_S = 60.0  # a draft that nobody has written to for so long
NAME = re.compile(r"(?P<job_id>[\w-]{1,64})\.(?P<number>\d{1,12})\.json", re.ASCII)
_unreadable = Fault("outcomes_unreadable")
DRAFT, UNREADABLE = ".draft", ".unreadable"
log = structlog.get_logger()


class Kept(NamedTuple):
    """The file of one outcome. Its name says which claim it is of."""

    path: Path
    job_id: str
    number: int
    size: int
    kept_s: float

    @property
    def claim(self) -> tuple[str, int]:
        return self.job_id, self.number

    def read(self) -> RunEnding | None:
        """The outcome; None when another process has removed the file, or it is unreadable, which is logged once."""
        try:
            ending = transfer.ending_from_json(self.path.read_bytes())
            if ending.claim != self.claim:
                raise ValueError("it is the outcome of another run")
        except OSError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            log.exception("outcome_unreadable", file=str(self.path), error=str(error))
            with suppress(OSError):
                self.path.rename(f"{self.path}{UNREADABLE}")
            return None
        return ending

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink()


def folder() -> Path:
    return settings().home / FOLDER


def keep(ending: RunEnding) -> bool:
    """Write an outcome to disk. False when it is too large, when there is no room, or when the folder cannot be written."""
    try:
        content = transfer.ending_to_json(ending)
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        if reason := _why_not(len(content)):
            raise OSError(reason)
        _write(folder() / f"{ending.job_id}.{ending.number}.json", content)
    except (OSError, TypeError, ValueError) as error:  # what is no plain value cannot be written as JSON
        log.warning("outcome_not_kept", job_id=ending.job_id, error=str(error))
        return False
    log.warning("outcome_kept", job_id=ending.job_id)
    return True


def _why_not(size: int) -> str:
    """Why there is no room for so many bytes; empty when there is."""
    sizes = [one.size for one in all_kept()]
    if size > MAX_FILE:
        return f"it has {size:,} bytes, over the limit of {MAX_FILE:,}"
    if len(sizes) >= MAX_FILES or sum(sizes) + size > MAX_ALL:
        return f"{len(sizes)} outcomes with {sum(sizes):,} bytes are kept already"
    return "the disk is full" if size > DISK_SHARE * shutil.disk_usage(folder()).free else ""


def _write(path: Path, content: bytes) -> None:
    """Write the whole file or nothing, so that it outlives a loss of power."""
    draft = path.with_name(f"{path.name}.{os.getpid()}{DRAFT}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def all_kept() -> list[Kept]:
    """What is kept, the oldest first."""
    found = []
    try:
        with os.scandir(folder()) as entries:
            for entry in entries:
                if (name := NAME.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # another process has just removed it
                        status = entry.stat(follow_symlinks=False)
                        path = Path(entry.path)
                        found.append(Kept(path, name["job_id"], int(name["number"]), status.st_size, time.time() - status.st_mtime))
    except FileNotFoundError:
        pass
    except OSError as error:  # jobs must run all the same
        _unreadable.occurred(error)
    else:
        _unreadable.ended()
    return sorted(found, key=lambda one: -one.kept_s)


def jobs_of_kept() -> set[str]:
    """Jobs whose outcome is kept: what they did is not to be done again before that is recorded or dropped."""
    return {one.job_id for one in all_kept()}


def clean() -> None:
    """Remove what no process will read: drafts of processes that died, and old unreadable files."""
    limits = {DRAFT: ABANDONED_S, UNREADABLE: KEPT_S}
    for path in folder().iterdir():
        with suppress(OSError):
            if path.suffix in limits and time.time() - path.stat().st_mtime > limits[path.suffix]:
                path.unlink()


@contextmanager
def alone() -> Iterator[bool]:
    """Whether no other process of this host records what is kept; in the block, none begins to."""
    with (folder() / "lock").open("a") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
