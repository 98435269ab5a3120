"""The files of a zip or tar, one after the other, as they come out of it: nothing swells past a limit, and nothing is written.

What an archive says of itself is not believed: names are checked one by one, and bytes are counted as they come out.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from monolith.content.fetch import DOCX
from monolith.job_types.registry import Permanent

MAX_FILES = 10_000  # and folders
MAX_BYTES = 100 * 1024 * 1024
MAX_TAR = MAX_BYTES + MAX_FILES * 2048  # with what tar adds to each file
MAX_HEADERS = 1024 * 1024  # of one file in a tar
MAX_NAME = 1000  # characters of a path
LEFT_OUT = re.compile(r"(^|/)(__MACOSX|node_modules/\.bin)/")  # what macOS adds; links that npm makes again
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
BROKEN = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
NO_ARCHIVE = "The archive cannot be opened as zip, tar or tar.gz. Pack the project again and submit the new file."
NO_FILES = "The archive is empty. Submit one with files in it."
TOO_MANY = f"The archive has more than {MAX_FILES:,} files. Leave out installed and built files, such as node_modules."
TOO_LARGE = f"The archive unpacks to more than {MAX_BYTES // 1024 // 1024} MB. Submit a smaller one."


@dataclass(frozen=True)
class Member:
    """A regular file of an archive; a symbolic link, whose content is where it leads; or anything else, which has no content."""

    name: str
    content: IO[bytes] | None
    is_executable: bool = False
    is_link: bool = False


def is_archive(content: bytes, media_type: str = "") -> bool:
    """Whether these are the bytes of an archive. A Word document is a zip as well, and is none."""
    return content.startswith(GZIP) or content[257:262] == b"ustar" or content.startswith(ZIP) and media_type != DOCX


@contextmanager
def opened(archive: bytes) -> Iterator[Iterator[Member]]:
    """All but the folders, in order; each is read before the next is asked for. Raises `Permanent` when it is broken or swells."""
    try:
        yield _counted(_of_zip(archive) if archive.startswith(b"PK") else _of_tar(archive))
    except BROKEN:
        raise Permanent(NO_ARCHIVE) from None


def files_of(archive: bytes) -> dict[str, bytes]:
    """Every regular file by its path, in the order of the archive. Raises `Permanent` when it is broken or swells.

    What leads out of the archive, links and devices are left out; of two files with one path the first counts.
    """
    found: dict[str, bytes] = {}
    left = MAX_BYTES
    with opened(archive) as members:
        for member in members:
            if member.content and not member.is_link and (path := _path(member.name)):
                content = member.content.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise Permanent(TOO_LARGE)
                found.setdefault(path, content)
    if not found:
        raise Permanent(NO_FILES)
    return found


def steps(name: str) -> list[str]:
    """The steps of a path that stays where it is. Raises `Permanent` for any other."""
    parts = [part for part in PurePosixPath(name).parts if part != "."]
    if not parts or name.startswith("/") or ".." in parts:
        raise refused(name, "its path is outside the project")
    if "\0" in name or "\\" in name or len(name) > MAX_NAME or any(len(part.encode(errors="replace")) > 255 for part in parts):
        raise refused(name, "its path is not valid here")
    return parts


def refused(name: str, why: str) -> Permanent:
    """Why an archive with this member is not taken."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)[:200]
    return Permanent(f"The project cannot be unpacked because of {shown!r}: {why}. Remove it and pack the project again.")


def _path(name: str) -> str | None:
    """The path without detours, or None for one that leads out or cannot be shown."""
    try:
        return "/".join(steps(name)) if name.isprintable() else None
    except Permanent:
        return None


def _counted(members: Iterator[Member | None]) -> Iterator[Member]:
    """Without a tar's folders, which count, and without what is left out, which does not: macOS adds a file for each."""
    wanted = (member for member in members if not (member and LEFT_OUT.search(member.name)))
    for count, member in enumerate(wanted, 1):
        if count > MAX_FILES:
            raise Permanent(TOO_MANY)
        if member:
            yield member


def _of_zip(archive: bytes) -> Iterator[Member]:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        for one in file.infolist():
            mode = one.external_attr >> 16
            if one.is_dir():
                continue
            if one.flag_bits & 1 or one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise refused(one.filename, "it is password-protected or uses an unsupported format")
            is_special = stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFLNK)
            with file.open(one) as content:
                yield Member(one.filename, None if is_special else content, bool(mode & stat.S_IXUSR), stat.S_ISLNK(mode))


def _of_tar(archive: bytes) -> Iterator[Member | None]:
    counted = _Counted(archive)
    with tarfile.open(fileobj=counted, mode="r|") as file:
        for one in file:
            counted.expect(one.size)
            file.members = []  # type: ignore[attr-defined] # a stream keeps what it has seen, and nobody asks for it again
            if one.isdir():
                yield None
            elif one.issym():
                yield Member(one.name, io.BytesIO(os.fsencode(one.linkname)), is_link=True)
            else:  # a sparse file may claim any size and have none
                is_special = not one.isreg() or one.issparse()
                yield Member(one.name, None if is_special else file.extractfile(one), bool(one.mode & stat.S_IXUSR))


class _Counted(io.RawIOBase):
    """A tar as it comes out of its gzip, within limits: in all, and between files, where it may swell unseen."""

    def __init__(self, archive: bytes) -> None:
        packed = io.BytesIO(archive)
        self._source = gzip.GzipFile(fileobj=packed) if archive.startswith(GZIP) else packed
        self._left, self._expected = MAX_TAR, MAX_HEADERS

    def expect(self, size: int) -> None:
        """A file of this size comes next, and then the headers of another."""
        self._expected = size + MAX_HEADERS

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(size)
        self._left -= len(chunk)
        self._expected -= len(chunk)
        if self._left < 0 or self._expected < 0:
            raise Permanent(TOO_LARGE)
        return chunk
