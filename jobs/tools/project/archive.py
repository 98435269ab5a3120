"""Reads the files of an untrusted zip, tar or tar.gz one by one, within limits and without writing to disk.

Sizes and names that an archive declares are not trusted: every name is checked, and bytes are counted as they are unpacked.
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

MAX_FILES = 10_000  # files and folders
MAX_BYTES = 100 * 1024 * 1024
MAX_TAR = MAX_BYTES + MAX_FILES * 2048  # with the headers and padding of each file
MAX_HEADERS = 1024 * 1024  # of one file in a tar
MAX_NAME = 1000  # characters of a path
LEFT_OUT = re.compile(r"(^|/)(__MACOSX|node_modules/\.bin)/")  # added by macOS; links that npm creates again
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
BROKEN = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
NO_ARCHIVE = "The archive cannot be opened as zip, tar or tar.gz. Pack the project again and submit the new file."
NO_FILES = "The archive is empty. Submit one with files in it."
TOO_MANY = f"The archive has more than {MAX_FILES:,} files. Leave out installed and built files, such as node_modules."
TOO_LARGE = f"The archive unpacks to more than {MAX_BYTES // 1024 // 1024} MB. Submit a smaller one."


@dataclass(frozen=True)
class Member:
    """A regular file, a symbolic link (its content is the target), or anything else (its content is None)."""

    name: str
    content: IO[bytes] | None
    is_executable: bool = False
    is_link: bool = False


def is_archive(content: bytes, media_type: str = "") -> bool:
    """Whether the content is a zip, tar or gzip. A Word document, although a zip, is not an archive."""
    return content.startswith(GZIP) or content[257:262] == b"ustar" or content.startswith(ZIP) and media_type != DOCX


@contextmanager
def open_archive(archive: bytes) -> Iterator[Iterator[Member]]:
    """Yields an iterator over the members, without folders. Read each member before the next.

    Raises `Permanent` if the archive is damaged or exceeds a limit.
    """
    try:
        yield _limited(_of_zip(archive) if archive.startswith(b"PK") else _of_tar(archive))
    except BROKEN:
        raise Permanent(NO_ARCHIVE) from None


def read_files(archive: bytes) -> dict[str, bytes]:
    """Returns the regular files by path, in the order of the archive. Raises `Permanent` if it is damaged or exceeds a limit.

    Links, devices and paths that lead outside are skipped; of two files with the same path the first counts.
    """
    found: dict[str, bytes] = {}
    left = MAX_BYTES
    with open_archive(archive) as members:
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


def path_parts(name: str) -> list[str]:
    """Returns the parts of a member's path. Raises `Permanent` for a path that leads outside or is not valid."""
    parts = [part for part in PurePosixPath(name).parts if part != "."]
    if not parts or name.startswith("/") or ".." in parts:
        raise member_refused(name, "its path is outside the project")
    if "\0" in name or "\\" in name or len(name) > MAX_NAME or any(len(part.encode(errors="replace")) > 255 for part in parts):
        raise member_refused(name, "its path is not valid here")
    return parts


def member_refused(name: str, why: str) -> Permanent:
    """The error for an archive with a member that is not allowed."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)[:200]
    return Permanent(f"The project cannot be unpacked because of {shown!r}: {why}. Remove it and pack the project again.")


def _path(name: str) -> str | None:
    """The normalised path, or None for one that leads outside or cannot be displayed."""
    try:
        return "/".join(path_parts(name)) if name.isprintable() else None
    except Permanent:
        return None


def _limited(members: Iterator[Member | None]) -> Iterator[Member]:
    """Enforces MAX_FILES and drops folders and what LEFT_OUT matches. Folders count; LEFT_OUT does not: macOS adds a file for each."""
    kept = (member for member in members if not (member and LEFT_OUT.search(member.name)))
    for count, member in enumerate(kept, 1):
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
                raise member_refused(one.filename, "it is password-protected or uses an unsupported format")
            is_special = stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFLNK)
            with file.open(one) as content:
                yield Member(one.filename, None if is_special else content, bool(mode & stat.S_IXUSR), stat.S_ISLNK(mode))


def _of_tar(archive: bytes) -> Iterator[Member | None]:
    limited = _LimitedTar(archive)
    with tarfile.open(fileobj=limited, mode="r|") as file:
        for one in file:
            limited.expect(one.size)
            file.members = []  # type: ignore[attr-defined] # tarfile keeps every member it has read, and none is needed again
            if one.isdir():
                yield None
            elif one.issym():
                yield Member(one.name, io.BytesIO(os.fsencode(one.linkname)), is_link=True)
            else:  # a sparse file may declare any size
                is_special = not one.isreg() or one.issparse()
                yield Member(one.name, None if is_special else file.extractfile(one), bool(one.mode & stat.S_IXUSR))


class _LimitedTar(io.RawIOBase):
    """The decompressed tar with limits on the total size and on the bytes between files, which would otherwise go unnoticed."""

    def __init__(self, archive: bytes) -> None:
        packed = io.BytesIO(archive)
        self._source = gzip.GzipFile(fileobj=packed) if archive.startswith(GZIP) else packed
        self._left, self._expected = MAX_TAR, MAX_HEADERS

    def expect(self, size: int) -> None:
        """Announces a file of this size, followed by the headers of the next one."""
        self._expected = size + MAX_HEADERS

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(size)
        self._left -= len(chunk)
        self._expected -= len(chunk)
        if self._left < 0 or self._expected < 0:
            raise Permanent(TOO_LARGE)
        return chunk
