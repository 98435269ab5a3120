"""The secret that signs sessions, where nobody has set one: made once and kept under the home."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from monolith.errors import BadSetting


def kept_secret(home: Path) -> str:
    """The secret, from its file or made now. Raises `BadSetting` where the home cannot be written."""
    path = home / "secret_key"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write_privately(path, secrets.token_urlsafe(48))
        return path.read_text()
    except OSError as error:
        raise BadSetting(f"The home {home} cannot be written ({error.strerror}). Set INTRAY_HOME to a folder you own.") from error


def _write_privately(path: Path, text: str) -> None:
    """Write the whole file or nothing, readable by its owner alone; the first of several processes wins."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
