"""Unpacks untrusted archives into a folder: nothing outside of it, no link, no device, within the limits.

Symbolic links inside the project are returned, not created: the sandbox creates them, where they cannot lead anywhere else.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from monolith.job_types.registry import Permanent

from .archive import MAX_BYTES, MAX_FILES, MAX_NAME, NO_FILES, TOO_LARGE, TOO_MANY, Member, member_refused, open_archive, path_parts

CHUNK = 64 * 1024

Links = dict[str, str]  # path to target


def unpack(archive: bytes, folder: Path) -> Links:
    """Unpacks a zip, tar or tar.gz into the folder and returns its symbolic links. Raises `Permanent` if it is damaged or hostile."""
    with open_archive(archive) as members:
        return _write(members, folder)


def write_files(files: dict[str, str], folder: Path) -> Links:
    """Writes files given as JSON (path to text) into the folder, under the rules for archives. Raises `Permanent`."""
    return _write((Member(name, io.BytesIO(text.encode())) for name, text in files.items()), folder)


def root_of(folder: Path) -> Path:
    """Returns the root of the project: the only folder, if everything is in one, else `folder`."""
    found = list(folder.iterdir())
    return found[0] if len(found) == 1 and found[0].is_dir() else folder


def _write(members: Iterator[Member], folder: Path) -> Links:
    left, made, links = MAX_BYTES, {folder}, Links()
    for member in members:
        parts = path_parts(member.name)
        path = folder.joinpath(*parts)
        if member.content is None:
            raise member_refused(member.name, "it is a hard link or a device")
        if member.is_link:
            links["/".join(parts)] = _link_target(member.name, member.content, parts)
        else:
            left -= _write_one(member, member.content, path, made, left)
        made.add(path)
        if len(made) > MAX_FILES:
            raise Permanent(TOO_MANY)
    if made == {folder}:
        raise Permanent(NO_FILES)
    for name in links:
        if (folder / name).exists():
            raise member_refused(name, "a file or folder has the same name")
    return links


def _link_target(name: str, content: IO[bytes], parts: list[str]) -> str:
    """The target of a link within the project. Links through other links need no check: none is created here."""
    target = content.read(MAX_NAME + 1).decode(errors="replace")
    depth = len(parts) - 1
    for part in PurePosixPath(target).parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or part == "/" or len(target) > MAX_NAME:
            raise member_refused(name, "it is a link to outside the project")
    return target


def _write_one(member: Member, content: IO[bytes], path: Path, made: set[Path], left: int) -> int:
    """Writes one file and returns its size in bytes."""
    try:
        _make_folder(path.parent, made)
        with path.open("xb") as file:
            size = _copy(content, file, left)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise member_refused(member.name, "another file has the same name as it or its folder") from None
    path.chmod(0o755 if member.is_executable else 0o644)
    return size


def _make_folder(path: Path, made: set[Path]) -> None:
    if path not in made:
        _make_folder(path.parent, made)
        path.mkdir()
        path.chmod(0o755)  # whatever the umask: the sandbox's user must be able to read it
        made.add(path)


def _copy(content: IO[bytes], file: IO[bytes], left: int) -> int:
    """Copies at most `left` bytes and returns how many. Raises `Permanent` if there are more."""
    size = 0
    while chunk := content.read(CHUNK):
        size += len(chunk)
        if size > left:
            raise Permanent(TOO_LARGE)
        file.write(chunk)
    return size
