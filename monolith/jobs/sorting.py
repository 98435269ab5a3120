"""Which of several documents can be taken, and what is wrong with the others: a bad one costs the good ones nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from werkzeug.datastructures import FileStorage

from monolith.database import storable
from monolith.errors import FieldError, Problem
from monolith.models import Document


@dataclass(frozen=True)
class Given:
    """One document of several: what to call it, where it stands in the request, and what makes it or raises."""

    name: str
    pointer: str
    make: Callable[[], Document]


def sort_out(given: list[Given]) -> tuple[list[Document], list[dict[str, str]]]:
    """The documents that can be taken, and what is wrong with the others."""
    documents: list[Document] = []
    refused: list[dict[str, str]] = []
    for one in given:
        try:
            documents.append(one.make())
        except Problem as problem:
            refused += [_refusal(one, error) for error in problem.errors or [FieldError(problem.detail, "")]]
    return documents, refused


def _refusal(given: Given, error: FieldError) -> dict[str, str]:
    inner = error.pointer if error.pointer.startswith(given.pointer) else given.pointer + error.pointer
    return {"name": storable(given.name, 300), "pointer": inner, "detail": error.detail}


def read(file: FileStorage) -> bytes:
    """The content; what was spooled to disk for it is let go at once."""
    with file.stream as stream:
        content: bytes = stream.read()
    return content
