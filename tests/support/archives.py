"""Archives for the tests, honest and hostile ones, and a real one from the package index."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

DOCUTILS = "docutils==0.23"  # 773 files, pure Python, no dependencies; its own tests run in ten seconds


def zipped(files: dict[str, str | bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def tarred(*members: tarfile.TarInfo | tuple[str, bytes], mode: str = "w:gz") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                head = tarfile.TarInfo(member[0])
                head.size = len(member[1])
                archive.addfile(head, io.BytesIO(member[1]))
    return made.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def zipped_link(name: str, target: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        head = zipfile.ZipInfo(name)
        head.create_system, head.external_attr = 3, 0o120777 << 16
        archive.writestr(head, target)
        archive.writestr("a.py", "x = 1\n")
    return made.getvalue()


def from_the_index(requirement: str, cache: pytest.Cache) -> Path:
    """The sdist of a package, downloaded once."""
    folder = cache.mkdir("sdists")
    known = next(folder.glob(f"{requirement.replace('==', '-')}.tar.gz"), None)
    if known is None:
        words = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder), requirement]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=100)
    return next(folder.glob(f"{requirement.replace('==', '-')}.tar.gz"))
