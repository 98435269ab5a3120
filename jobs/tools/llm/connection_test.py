"""One tiny question to the LLM, for an admin who wants to know whether it works. It is no job: no budget, no breaker, no cache."""

from __future__ import annotations

import importlib
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

from marshmallow import Schema, fields

from monolith.config import settings
from monolith.job_types.registry import Job, Permanent, Snooze

from . import client
from .prices import what_is_unknown

OFF = "No language model is set up (OPENAI_API_KEY): the built-in engine is used."


class Sum(Schema):
    sum = fields.Integer(required=True)


@dataclass
class _Trial:
    """As much of a job as asking needs."""

    input_tokens: int = 0
    output_tokens: int = 0
    usd: Decimal = Decimal(0)

    def spent(self, *, input_tokens: int, output_tokens: int, usd: Decimal) -> None:
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.usd += usd

    def circuit(self, server: str, within_s: float) -> AbstractContextManager[None]:
        return nullcontext()


def run_connection_test() -> dict[str, Any]:
    """Ask, as jobs do; how it went. `message` says it in plain words, and what to mend."""
    if client.configured():
        importlib.import_module("openai.resources.chat.completions")  # which takes longer than many a model
    trial, began = _Trial(), time.monotonic()
    message = _ask(cast(Job, trial)) if client.configured() else OFF
    return {
        "configured": client.configured(),
        "ok": message is None,
        "model": settings().openai_model if client.configured() else None,
        "message": message or " ".join(["The model answered.", what_is_unknown() or ""]).strip(),
        "duration_ms": round((time.monotonic() - began) * 1000),
        "input_tokens": trial.input_tokens,
        "output_tokens": trial.output_tokens,
        "usd": float(round(trial.usd, 9)),
    }


def _ask(trial: Job) -> str | None:
    """What went wrong, or None."""
    try:
        client.ask_now(trial, "Add the two numbers of the document.", "2 and 2", Sum)
    except Snooze as later:
        return f"{later} It asked us to wait {later.seconds:.0f} s."
    except (Permanent, client.AIUnavailable, client.BadAnswer) as error:
        return str(error)
    return None
