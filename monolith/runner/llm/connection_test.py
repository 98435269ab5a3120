"""Whether the language model works, for admins: asked by `manage.py ai test`, `manage.py doctor` and `POST /api/v1/ai/test`."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from monolith.config import settings
from monolith.errors import Unavailable

TRIAL = "jobs.tools.llm.connection_test:try_out"  # found by name: nothing here imports jobs
MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
CALL_S = 10.0  # two of them, if need be, fit into the 30 s that hosts give to an answer
WITHIN_S = 28.0


def try_out() -> dict[str, Any]:
    """Ask the model one tiny question; how it went."""
    module, _, function = TRIAL.partition(":")
    found: dict[str, Any] = getattr(importlib.import_module(module), function)()
    return found


def run_connection_test() -> dict[str, Any]:
    """The same in a process of its own, and in less time: the web process would keep the 30 MB of the client for ever.

    Raises `Unavailable` when that process did not answer.
    """
    command = [sys.executable, str(MANAGE), "ai", "test", "--json"]
    env = {**os.environ, "OPENAI_TIMEOUT": str(min(settings().openai_timeout, CALL_S))}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=WITHIN_S, check=False)  # noqa: S603 - nothing of it is a stranger's
        found: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise Unavailable("The test did not finish. Run `manage.py ai test` to see why.") from error
    return found
