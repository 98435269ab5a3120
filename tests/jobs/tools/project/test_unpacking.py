"""Archives of strangers: what is unpacked, and what is refused before it can do harm."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from jobs.tools.project import unpacking
from monolith.job_types.registry import Permanent
from tests.support.archives import link, tarred, zipped, zipped_link

FIFO = tarfile.TarInfo("pipe")
FIFO.type = tarfile.FIFOTYPE


def unpacked(archive: bytes, folder: Path) -> dict[str, str]:
    unpacking.unpack(archive, folder)
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder.parent)) for path in folder.parent.rglob("*") if path != folder)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "archive",
    [
        zipped({"a/b.txt": "hi", "c.py": ""}),
        tarred(("a/b.txt", b"hi"), ("./c.py", b"")),
        tarred(("a/b.txt", b"hi"), ("c.py", b""), mode="w"),
    ],
    ids=["zip", "tar.gz", "tar"],
)
def test_an_archive_is_unpacked_as_it_is(archive: bytes, place: Path) -> None:
    assert unpacked(archive, place) == {"a/b.txt": "hi", "c.py": ""}


def test_what_macos_adds_to_each_file_and_the_folders_of_a_zip_do_not_count(place: Path) -> None:
    files = {f"a/{number}.txt": "" for number in range(6000)}
    added = {f"__MACOSX/a/._{number}.txt": "" for number in range(6000)}
    assert unpacked(zipped({"a/": "", **files, **added}), place) == files


def test_a_program_stays_one_and_nothing_gets_other_rights(place: Path) -> None:
    program = tarfile.TarInfo("run.sh")
    program.mode = 0o6777
    unpacking.unpack(tarred(program, ("data", b"x")), place)
    assert [(place / name).stat().st_mode & 0o7777 for name in ("run.sh", "data")] == [0o755, 0o644]


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (zipped({"../out.txt": "x"}), "outside the project"),
        (zipped({"a/../../out.txt": "x"}), "outside the project"),
        (zipped({"/etc/out.txt": "x"}), "outside the project"),
        (tarred(("../out.txt", b"x")), "outside the project"),
        (tarred(("/tmp/out.txt", b"x")), "outside the project"),
        (zipped({"a\\..\\b": "x"}), "is not valid here"),
        (zipped({"a/" * 600: "", "a/" * 600 + "b": "x"}), "is not valid here"),
        (tarred(link("out", "/etc/passwd")), "outside the project"),
        (tarred(link("a/out", "../../x")), "outside the project"),
        (zipped_link("out", "../../etc/passwd"), "outside the project"),
        (tarred(("a", b"x"), link("b", "a", tarfile.LNKTYPE)), "hard link"),
        (tarred(FIFO), "device"),
        (tarred(link("a", "b"), ("a/x", b"1")), "same name"),
        (tarred(("a", b"1"), ("a", b"2")), "same name"),
        (tarred(("a", b"1"), ("a/b", b"2")), "same name"),
        (zipped({}), "archive is empty"),
        (b"PK\x03\x04 nothing", "cannot be opened as zip"),
        (b"\x1f\x8b nothing", "cannot be opened as zip"),
        (b"just a text", "cannot be opened as zip"),
        (zipped({"a": "x" * 1000})[:-30], "cannot be opened as zip"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,  # an archive holds the time at which it was made
)
def test_what_is_broken_or_leads_out_is_refused_and_nothing_lies_outside(archive: bytes, why: str, place: Path) -> None:
    with pytest.raises(Permanent, match=why):
        unpacking.unpack(archive, place)
    assert [name for name in everything(place) if not name.startswith("place/")] == []


def test_a_link_within_the_project_is_told_and_not_made(place: Path) -> None:
    assert unpacking.unpack(tarred(("docs/a.md", b"x"), link("docs/b.md", "a.md"), link("c.md", "docs/a.md")), place) == {
        "docs/b.md": "a.md",
        "c.md": "docs/a.md",
    }
    assert everything(place) == ["place/docs", "place/docs/a.md"]


def padded(size: int) -> bytes:
    """A tar whose header of one file is so many bytes long."""
    head = tarfile.TarInfo("a")
    head.pax_headers = {"comment": "x" * size}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(head)
    return made.getvalue()


@pytest.mark.parametrize(
    ("bomb", "why"),
    [
        (lambda: zipped({f"{number}": b"\0" * (30 << 20) for number in range(4)}), "more than 100 MB"),
        (lambda: tarred(("a", b"\0" * (101 << 20))), "more than 100 MB"),
        (lambda: zipped({f"{number}": "" for number in range(10_001)}), "more than 10,000 files"),
        (lambda: zipped({f"{number}/{'a/' * 400}b": "" for number in range(30)}), "more than 10,000 files"),
    ],
    ids=["zip", "tar", "files", "folders"],
)
def test_a_bomb_is_put_out(bomb: object, why: str, place: Path) -> None:
    packed = bomb()  # type: ignore[operator]
    assert len(packed) < 5 << 20
    with pytest.raises(Permanent, match=why):
        unpacking.unpack(packed, place)
    assert sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) <= unpacking.MAX_BYTES


def test_a_header_that_swells_is_not_read_into_memory(place: Path) -> None:
    packed = gzip.compress(padded(50 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(Permanent, match="more than 100 MB"):
            unpacking.unpack(packed, place)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_a_zip_that_lies_about_a_size_is_refused(place: Path) -> None:
    archive = bytearray(zipped({"a": b"\0" * (1 << 20)}))
    with zipfile.ZipFile(io.BytesIO(bytes(archive))) as opened:
        size = opened.infolist()[0].file_size.to_bytes(4, "little")
    archive = bytearray(bytes(archive).replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(Permanent):
        unpacking.unpack(bytes(archive), place)
