"""Whether the language model works, for admins: asked by `manage.py ai test`, `manage.py doctor` and `POST /api/v1/ai/test`."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from monolith.config import settings
from monolith.errors import Unavailable

TRIAL = "jobs.tools.ai_trial:try_out"  # found by name: nothing here imports jobs
MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
CALLS = 2  # an answer that does not fit is sent back once
STARTING_S = 20.0


def try_out() -> dict[str, Any]:
    """Ask the model one tiny question; how it went."""
    module, _, function = TRIAL.partition(":")
    found: dict[str, Any] = getattr(importlib.import_module(module), function)()
    return found


def try_out_apart() -> dict[str, Any]:
    """The same in a process of its own: the web process would keep the 30 MB of the client for ever.

    Raises `Unavailable` when that process did not answer.
    """
    within_s = CALLS * settings().openai_timeout + STARTING_S
    command = [sys.executable, str(MANAGE), "ai", "test", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)  # noqa: S603 - nothing of it is a stranger's
        found: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise Unavailable("The test did not come to an end. Run `manage.py ai test` to see why.") from error
    return found
