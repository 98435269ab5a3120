"""Write .env.example from the settings that monolith/config.py reads: `.venv/bin/python -m tools.env_example`.

Names and defaults are the code's; the words, and the few settings that libraries read, are from the table in docs/operations.md.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from monolith import config

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / ".env.example"
WIDTH = 110
HEAD = """\
# Every setting of Intray with its default; docs/operations.md says more of each.
# Made by `python -m tools.env_example`; do not edit. Intray reads the environment and no file: copy this one to .env, set what you need,
# and load it: `set -a; . ./.env; set +a; make run`, `EnvironmentFile=` of systemd, or `env_file:` of Docker Compose.
"""


class RecordedDefaults(config.Environment):
    """An empty environment that keeps what is asked of it: names, and what holds when nothing is set."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Any] = {}

    def __getattribute__(self, name: str) -> Any:
        if name not in ("str", "int", "float", "bool", "list", "decimal"):
            return super().__getattribute__(name)

        def read(variable: str, default: Any, **rules: Any) -> Any:
            self.found[variable] = default
            return "unused" if variable == "SECRET_KEY" else default  # without one, a key would be made and kept

        return read


def text() -> str:
    """The file: each row of the table with the settings it explains."""
    defaults = RecordedDefaults()
    config._read(defaults)
    return "\n".join([HEAD, *(_section(row, defaults.found) for row in _rows())])


def _rows() -> Iterator[tuple[list[str], str, str]]:
    """The settings of each row, their meaning and their default, as the table has them."""
    table = (ROOT / "docs" / "operations.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    for line in table.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if names := re.findall(r"`([A-Z_]+)`", cells[0]) if cells else []:
            yield names, _plain(cells[1][:1].upper() + cells[1][1:]), _plain(cells[2])


def _plain(markdown: str) -> str:
    """The text of a cell; a link at its end, to a section that says more, is left out."""
    shorter = re.sub(r": \[[^\]]+\]\([^)]+\)$", "", markdown)
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", shorter).replace("`", "").replace("\\|", "|")


def _section(row: tuple[list[str], str, str], defaults: dict[str, Any]) -> str:
    names, meaning, default = row
    values = {name: _value(defaults[name] if name in defaults else default if default.isalpha() else "") for name in names}
    words = f"{meaning}." if default in ("", ", ".join(values.values()).replace('"', "")) else f"{meaning}. Default: {default}."
    comment = textwrap.fill(words, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False)
    return "\n".join([comment, *(f"#{name}={value}" for name, value in values.items()), ""])


def _value(default: Any) -> str:
    said = ",".join(default) if isinstance(default, list) else str(default).lower() if isinstance(default, bool) else str(default)
    if isinstance(default, float | Decimal):
        said = f"{default:g}"
    return f'"{said}"' if " " in said else said


if __name__ == "__main__":
    FILE.write_text(text())
