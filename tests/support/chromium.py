"""How Chromium is started here, by the tests and by tools/screenshots.py."""

from __future__ import annotations

from typing import Any

CHROMIUM = "/usr/bin/chromium"
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
LAUNCH: dict[str, Any] = {"executable_path": CHROMIUM, "args": QUIET.split()}
