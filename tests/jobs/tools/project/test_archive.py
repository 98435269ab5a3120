"""Archives read in memory: kind ones, and those that would swell, lead out, or are none."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable

import pytest

from jobs.tools.project.archive import is_archive, read_files
from monolith.content import fetch
from monolith.job_types.registry import Permanent
from tests.support import documents


def zipped(*files: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files:
            opened.writestr(name, content)
    return made.getvalue()


def tarred(*members: tuple[tarfile.TarInfo | str, bytes], mode: str = "w:gz") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as opened:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return made.getvalue()


def special(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "packed",
    [
        zipped(("a/x.py", b"1"), ("b.md", b"2")),
        tarred(("a/x.py", b"1"), ("./b.md", b"2")),
        tarred(("a/x.py", b"1"), ("b.md", b"2"), mode="w"),
    ],
    ids=["zip", "tar.gz", "tar"],
)
def test_files_come_by_their_paths(packed: bytes) -> None:
    assert is_archive(packed)
    assert read_files(packed) == {"a/x.py": b"1", "b.md": b"2"}


def test_a_word_document_is_no_archive() -> None:
    assert not is_archive(documents.word(), fetch.DOCX)


def test_what_leads_out_and_links_and_devices_are_left_out() -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    outside = [("../up", b"x"), ("/etc/passwd", b"x"), ("a/../../b", b"x"), ("c\\..\\d", b"x")]
    assert read_files(zipped((link, b"/etc/passwd"), *outside, ("fine", b"y"))) == {"fine": b"y"}
    specials = [(special(str(kind), kind), b"") for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)]
    assert read_files(tarred(*specials, *outside, ("fine", b"y"))) == {"fine": b"y"}


def test_the_first_of_two_files_with_one_path_counts() -> None:
    assert read_files(tarred(("a", b"1"), ("./a", b"2"))) == {"a": b"1"}


def bomb() -> bytes:
    return zipped(*((f"{number}", bytes(10 * 1024 * 1024)) for number in range(11)))


def lying_bomb() -> bytes:
    """A zip whose one file says it has a hundred bytes, and has 110 MB."""
    packed = zipped(("a", bytes(110 * 1024 * 1024)))
    place = packed.index(b"PK\x01\x02") + 24
    return packed[:place] + struct.pack("<I", 100) + packed[place + 4 :]


def tar_bomb() -> bytes:
    """A tar.gz that is nothing but one header of extended attributes, of 2 GB when it is unpacked: tarfile would read it whole."""
    header = special("pax", tarfile.XHDTYPE, "")
    header.size = 2 * 1024**3
    return gzip.compress(header.tobuf(tarfile.GNU_FORMAT)) + gzip.compress(bytes(64 * 1024 * 1024), 1) * 32


@pytest.mark.parametrize("make", [bomb, lying_bomb, tar_bomb])
def test_what_swells_is_not_unpacked(make: Callable[[], bytes]) -> None:
    packed = make()
    tracemalloc.start()
    with pytest.raises(Permanent, match="more than 100 MB|cannot be opened as zip"):
        read_files(packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 260 * 1024 * 1024


def test_too_many_files_are_refused_before_they_are_read() -> None:
    with pytest.raises(Permanent, match="more than 10,000 files"):
        read_files(zipped(*((str(number), b"") for number in range(10_001))))
    with pytest.raises(Permanent, match="more than 10,000 files"):
        read_files(tarred(*((str(number), b"") for number in range(10_001)), mode="w"))


def locked() -> bytes:
    packed = bytearray(zipped(("a", b"x")))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(mark) + place] |= 1
    return bytes(packed)


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (zipped(("a", b"x" * 5000))[:60], "cannot be opened as zip"),
        (b"PK\x03\x04nonsense", "cannot be opened as zip"),
        (gzip.compress(b"only text"), "cannot be opened as zip"),
        (tarred(("a", b"x" * 5000))[:40], "cannot be opened as zip"),
        (zipped(), "cannot be opened as zip|archive is empty"),
        (zipped(("a/", b"")), "archive is empty"),
        (locked(), "password-protected"),
    ],
    ids=["half a zip", "no zip", "no tar", "half a tar", "empty", "folders", "locked"],
)
def test_what_cannot_be_opened_says_what_to_do(packed: bytes, words: str) -> None:
    with pytest.raises(Permanent, match=words):
        read_files(packed)
