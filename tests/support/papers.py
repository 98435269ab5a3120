"""A document and a job for the functions of job types that are called directly."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any

from monolith.content.extract_text import read_document

README = """# Tidepool

[![build](https://example.com/b.svg)](https://example.com) Tidepool is a small key-value store that keeps its data in memory.

## Features

- Fast reads: a hundred thousand requests a second on one core
- Snapshots are written to disk every second, so little is lost

## Installation

```
pip install tidepool==2.1.0
```

## Use cases

Teams use Tidepool to keep the sessions of their web applications. It is useful for caches that must survive a restart.

## Limitations

Tidepool does not support transactions. The data must fit into memory.

## License

MIT. See the changelog for what is new in version 2.1.0, and open an issue on GitHub when you need support.
"""


@dataclass
class Paper:
    """A document as `registry.Document` has it."""

    content: bytes | None
    media_type: str = "text/plain"
    source_url: str | None = None
    id: str = "doc_1"
    title: str = "A title"
    kind: str = "file"
    filename: str | None = None
    kept: list[str] = field(default_factory=list)

    @cached_property
    def text(self) -> str:
        return read_document(self)

    def keep(self, content: bytes, media_type: str, title: str | None) -> None:
        self.content, self.media_type, self.title = content, media_type, title or self.title
        self.kept.append(media_type)


@dataclass
class Work:
    """A job as `registry.Job` has it, as far as this type needs one."""

    document: Paper | None = None
    id: str = "job_1"
    type: str = "analyze"
    attempt: int = 1
    steps: list[tuple[float | None, str]] = field(default_factory=list)
    tokens: int = 0

    def progress(self, percent: float | None, note: str) -> None:
        self.steps.append((percent, note))

    def spent(self, *, input_tokens: int, output_tokens: int, usd: Decimal) -> None:
        self.tokens += input_tokens + output_tokens

    def over_budget(self) -> None:
        return None

    def circuit(self, server: str, within_s: float) -> AbstractContextManager[None]:
        return nullcontext()

    def cached(self, key: str, kept_s: float, made_within_s: float, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return make()
