"""The connection test of the language model for `manage.py doctor` and `POST /api/v1/ai/test`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from monolith.config import ROOT, settings
from monolith.errors import Unavailable

MANAGE = ROOT / "manage.py"
CALL_S = 10.0  # time for two calls, within the 30 s that hosts allow for a response
WITHIN_S = 28.0


def run_connection_test() -> dict[str, Any]:
    """Send one small question to the language model; returns `ok`, `message`, `model`, `duration_ms`, tokens and cost.

    Runs `manage.py ai test` in a process of its own, because the web process would keep the 30 MB of the client for good.
    Raises `Unavailable` when that process does not answer within WITHIN_S.
    """
    command = [sys.executable, str(MANAGE), "ai", "test", "--json"]
    env = {**os.environ, "OPENAI_TIMEOUT": str(min(settings().openai_timeout, CALL_S))}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=WITHIN_S, check=False)  # noqa: S603 - no user input
        found: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise Unavailable("The test did not finish. Run `manage.py ai test` to see why.") from error
    return found
