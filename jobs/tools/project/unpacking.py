"""Archives of strangers, unpacked into a folder: nothing lands outside it, no link, no device, no more than the limits.

Symbolic links that stay in the project are told, not made: they are made in the sandbox, where they can lead nowhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from monolith.job_types.registry import Permanent

from ...tools.project.archive import MAX_BYTES, MAX_FILES, MAX_NAME, NO_FILES, TOO_LARGE, TOO_MANY, Member, opened, refused, steps

CHUNK = 64 * 1024

Links = dict[str, str]  # where each is, and where it leads


def unpack(archive: bytes, folder: Path) -> Links:
    """Unpack a zip, tar or tar.gz into the folder; the links in it. Raises `Permanent` for one that is broken or hostile."""
    with opened(archive) as members:
        return _write(members, folder)


def write_files(files: dict[str, str], folder: Path) -> Links:
    """Write files that came as JSON, under the same rules. Raises `Permanent`."""
    return _write((Member(name, io.BytesIO(text.encode())) for name, text in files.items()), folder)


def root_of(folder: Path) -> Path:
    """Where the project begins: archives often have one folder with everything in it."""
    found = list(folder.iterdir())
    return found[0] if len(found) == 1 and found[0].is_dir() else folder


def _write(members: Iterator[Member], folder: Path) -> Links:
    left, made, links = MAX_BYTES, {folder}, Links()
    for member in members:
        parts = steps(member.name)
        path = folder.joinpath(*parts)
        if member.content is None:
            raise refused(member.name, "it is a hard link or a device")
        if member.is_link:
            links["/".join(parts)] = _target(member.name, member.content, parts)
        else:
            left -= _write_one(member, member.content, path, made, left)
        made.add(path)
        if len(made) > MAX_FILES:
            raise Permanent(TOO_MANY)
    if made == {folder}:
        raise Permanent(NO_FILES)
    for name in links:
        if (folder / name).exists():
            raise refused(name, "a file or folder has the same name")
    return links


def _target(name: str, content: IO[bytes], parts: list[str]) -> str:
    """Where a link leads, when that is in the project. Where links lead over others does not matter: none is made here."""
    target = content.read(MAX_NAME + 1).decode(errors="replace")
    depth = len(parts) - 1
    for step in PurePosixPath(target).parts:
        depth += -1 if step == ".." else 1
        if depth < 0 or step == "/" or len(target) > MAX_NAME:
            raise refused(name, "it is a link to outside the project")
    return target


def _write_one(member: Member, content: IO[bytes], path: Path, made: set[Path], left: int) -> int:
    """Write one file; how many bytes it has."""
    try:
        _make_folder(path.parent, made)
        with path.open("xb") as file:
            size = _copy(content, file, left)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise refused(member.name, "another file has the same name as it or its folder") from None
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
