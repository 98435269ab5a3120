"""The files of a zip or tar, read in memory: nothing is written to a disk, links are ignored, and nothing swells past a limit.

What an archive says of its sizes is only believed when it is too much: a tar is taken out of its compression up to a limit, a zip
file by file.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from jobs.tools.fetch import DOCX
from monolith.runner.registry import Permanent

MAX_FILES = 10_000
MAX_BYTES = 100 * 1024 * 1024
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError)
NO_ARCHIVE = "It is no zip, tar or tar.gz archive that can be opened. Pack the project again and submit the new file."
TOO_MANY = f"The archive has more than {MAX_FILES:,} files. Leave out what is installed or built, such as node_modules."
TOO_LARGE = f"The archive unpacks to more than {MAX_BYTES // 1024 // 1024} MB, so it is not read. Submit less."


def is_archive(content: bytes, media_type: str = "") -> bool:
    """Whether these are the bytes of an archive. A Word document is a zip as well, and is none."""
    return content.startswith(GZIP) or content[257:262] == b"ustar" or content.startswith(ZIP) and media_type != DOCX


def files_of(archive: bytes) -> dict[str, bytes]:
    """Every regular file by its path, in the order of the archive. Raises `Permanent` for one that is broken or swells.

    What leads out of the archive, links and devices are left out; of two files with one path the first counts.
    """
    found: dict[str, bytes] = {}
    try:
        for name, content in _of_zip(archive) if archive.startswith(b"PK") else _of_tar(archive):
            if path := _inside(name):
                found.setdefault(path, content)
    except BROKEN:
        raise Permanent(NO_ARCHIVE) from None
    if not found:
        raise Permanent("The archive has no files in it. Submit one with something to read.")
    return found


def _of_zip(archive: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        members = [one for one in opened.infolist() if stat.S_IFMT(one.external_attr >> 16) in (0, stat.S_IFREG) and not one.is_dir()]
        _check(len(members), sum(one.file_size for one in members))
        left = MAX_BYTES
        for one in members:
            if one.flag_bits & 1 or one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Permanent("The archive is locked by a password, or packed in an unusual way. Pack it as a plain zip.")
            with opened.open(one) as packed:
                content = packed.read(left + 1)
            left -= len(content)
            _check(0, MAX_BYTES - left)
            yield one.filename, content


def _of_tar(archive: bytes) -> Iterator[tuple[str, bytes]]:
    unpacked, count = _unpacked(archive), 0
    with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as opened:
        for one in opened:
            _check(count := count + 1, 0)
            # A sparse file may claim any size and have none.
            if one.isreg() and not one.issparse() and (content := opened.extractfile(one)):
                yield one.name, content.read()


def _unpacked(archive: bytes) -> bytes:
    """A tar out of its compression. Whole and up to a limit, because what lies between its files may swell too."""
    packed = io.BytesIO(archive)
    opened = gzip.open(packed) if archive.startswith(GZIP) else packed  # noqa: SIM115
    content = opened.read(MAX_BYTES + 1)
    _check(0, len(content))
    return content


def _check(files: int, size: int) -> None:
    if files > MAX_FILES:
        raise Permanent(TOO_MANY)
    if size > MAX_BYTES:
        raise Permanent(TOO_LARGE)


def _inside(name: str) -> str | None:
    """The path without detours, or None for one that leads out, or is none."""
    parts = [part for part in PurePosixPath(name).parts if part != "."]
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable() or len(name) > 1000:
        return None
    return "/".join(parts)
