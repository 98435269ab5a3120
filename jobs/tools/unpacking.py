"""Archives of strangers, unpacked into a folder: nothing lands outside it, no link, no device, no more than the limits.

What an archive says of itself is not believed: names are checked one by one, and bytes are counted as they come out. Symbolic links
that stay in the project are told, not made: they are made in the sandbox, where they can lead nowhere.
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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from monolith.runner.registry import Permanent

MAX_FILES = 10_000  # and folders
MAX_BYTES = 100 * 1024 * 1024
MAX_TAR = MAX_BYTES + MAX_FILES * 2048  # with what tar adds to each file
MAX_HEADERS = 1024 * 1024  # of one file in a tar
MAX_NAME = 1000  # characters of a path
CHUNK = 64 * 1024
LEFT_OUT = re.compile(r"(^|/)(__MACOSX|node_modules/\.bin)/")  # what macOS adds; links that npm makes again
GZIP = b"\x1f\x8b"
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError)
NO_ARCHIVE = "It is no zip, tar or tar.gz archive that can be opened. Pack the project again, and submit the new file."
TOO_MANY = f"The project has more than {MAX_FILES:,} files. Leave out what is installed or built, such as node_modules."
TOO_LARGE = f"The project unpacks to more than {MAX_BYTES // 1024 // 1024} MB, so it is not unpacked. Submit less."


Links = dict[str, str]  # where each is, and where it leads


@dataclass(frozen=True)
class Member:
    """One regular file of an archive, or a symbolic link: then its content is where it leads."""

    name: str
    content: IO[bytes]
    is_executable: bool = False
    is_link: bool = False


def unpack(archive: bytes, folder: Path) -> Links:
    """Unpack a zip, tar or tar.gz into the folder; the links in it. Raises `Permanent` for one that is broken or hostile."""
    try:
        return _write(_of_zip(archive) if archive.startswith(b"PK") else _of_tar(archive), folder)
    except Permanent:
        raise
    except BROKEN:
        raise Permanent(NO_ARCHIVE) from None


def write_files(files: dict[str, str], folder: Path) -> Links:
    """Write files that came as JSON, under the same rules. Raises `Permanent`."""
    return _write((Member(name, io.BytesIO(text.encode())) for name, text in files.items()), folder)


def root_of(folder: Path) -> Path:
    """Where the project begins: archives often have one folder with everything in it."""
    found = list(folder.iterdir())
    return found[0] if len(found) == 1 and found[0].is_dir() else folder


def _of_zip(archive: bytes) -> Iterator[Member]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        for one in opened.infolist():
            mode = one.external_attr >> 16
            if one.is_dir() or LEFT_OUT.search(one.filename):
                continue
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFLNK):
                raise _refused(one.filename, "it is a device")
            if one.flag_bits & 1 or one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _refused(one.filename, "it is locked by a password, or packed in an unusual way")
            with opened.open(one) as content:
                yield Member(one.filename, content, bool(mode & stat.S_IXUSR), stat.S_ISLNK(mode))


def _of_tar(archive: bytes) -> Iterator[Member]:
    counted = _Counted(archive)
    with tarfile.open(fileobj=counted, mode="r|") as opened:
        for one in opened:
            counted.expect(one.size)
            opened.members = []  # type: ignore[attr-defined] # a stream keeps what it has seen, and nobody asks for it again
            if one.isdir() or LEFT_OUT.search(one.name):
                continue
            if one.issym():
                yield Member(one.name, io.BytesIO(os.fsencode(one.linkname)), is_link=True)
                continue
            content = opened.extractfile(one) if one.isreg() and not one.issparse() else None
            if content is None:
                raise _refused(one.name, "it is a hard link or a device")
            yield Member(one.name, content, bool(one.mode & stat.S_IXUSR))


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


def _write(members: Iterator[Member], folder: Path) -> Links:
    left, made, links = MAX_BYTES, {folder}, Links()
    for member in members:
        parts = _parts(member.name)
        path = folder.joinpath(*parts)
        if member.is_link:
            links["/".join(parts)] = _target(member, parts)
        else:
            left -= _write_one(member, path, made, left)
        made.add(path)
        if len(made) > MAX_FILES:
            raise Permanent(TOO_MANY)
    if made == {folder}:
        raise Permanent("The project has no files. Submit one with something in it.")
    for name in links:
        if (folder / name).exists():
            raise _refused(name, "a file or folder has the same name")
    return links


def _target(member: Member, parts: list[str]) -> str:
    """Where a link leads, when that is in the project. Where links lead over others does not matter: none is made here."""
    target = member.content.read(MAX_NAME + 1).decode(errors="replace")
    depth = len(parts) - 1
    for step in PurePosixPath(target).parts:
        depth += -1 if step == ".." else 1
        if depth < 0 or step == "/" or len(target) > MAX_NAME:
            raise _refused(member.name, "it is a link that leads out of the project")
    return target


def _write_one(member: Member, path: Path, made: set[Path], left: int) -> int:
    """Write one file; how many bytes it has."""
    try:
        _make_folder(path.parent, made)
        with path.open("xb") as file:
            size = _copy(member.content, file, left)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise _refused(member.name, "another file has the same name, or that of its folder") from None
    path.chmod(0o755 if member.is_executable else 0o644)
    return size


def _make_folder(path: Path, made: set[Path]) -> None:
    if path not in made:
        _make_folder(path.parent, made)
        path.mkdir()
        path.chmod(0o755)  # whatever the umask: the sandbox's user has to read it
        made.add(path)


def _copy(content: IO[bytes], file: IO[bytes], left: int) -> int:
    """Copy at most so many bytes; how many it were. Raises `Permanent` for more."""
    size = 0
    while chunk := content.read(CHUNK):
        size += len(chunk)
        if size > left:
            raise Permanent(TOO_LARGE)
        file.write(chunk)
    return size


def _parts(name: str) -> list[str]:
    """The steps of a path that stays where it is. Raises `Permanent` for any other."""
    parts = [part for part in PurePosixPath(name).parts if part != "."]
    if not parts or name.startswith("/") or ".." in parts:
        raise _refused(name, "its path leads out of the project")
    if "\0" in name or "\\" in name or len(name) > MAX_NAME or any(len(part.encode(errors="replace")) > 255 for part in parts):
        raise _refused(name, "its path cannot be a path here")
    return parts


def _refused(name: str, why: str) -> Permanent:
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)[:200]
    return Permanent(f"The project is not unpacked because of {shown!r}: {why}. Take it out and pack the project again.")
