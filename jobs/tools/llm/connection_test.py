"""Tests the connection to the language model with one small question, without budget, rates, circuit breaker or cache."""

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
from .prices import missing_price_note

OFF = "No language model is set up (OPENAI_API_KEY): the built-in engine is used."


class SumAnswer(Schema):
    sum = fields.Integer(required=True)


@dataclass
class _UsageCounter:
    """Stands in for a job: counts what the question cost."""

    input_tokens: int = 0
    output_tokens: int = 0
    usd: Decimal = Decimal(0)

    def spent(self, *, input_tokens: int, output_tokens: int, usd: Decimal) -> None:
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.usd += usd

    def use_rates(self, costs: Any) -> None:
        """The question is asked although the rates are used up: an admin waits for the answer."""

    def correct_rates(self, costs: Any) -> None:
        pass

    def circuit(self, server: str, within_s: float) -> AbstractContextManager[None]:
        return nullcontext()


def run_connection_test() -> dict[str, Any]:
    """Asks one question and returns how it went; `message` says what is wrong and how to fix it."""
    if client.configured():
        importlib.import_module("openai.resources.chat.completions")  # the import is slow and must not count as response time
    usage, began = _UsageCounter(), time.monotonic()
    message = _ask(cast(Job, usage)) if client.configured() else OFF
    return {
        "configured": client.configured(),
        "ok": message is None,
        "model": settings().openai_model if client.configured() else None,
        "message": message or " ".join(["The model answered.", missing_price_note() or ""]).strip(),
        "duration_ms": round((time.monotonic() - began) * 1000),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "usd": float(round(usage.usd, 9)),
    }


def _ask(job: Job) -> str | None:
    """Returns what went wrong, or None."""
    try:
        client.ask_now(job, "Add the two numbers of the document.", "2 and 2", SumAnswer)
    except Snooze as snooze:
        return f"{snooze} It asked us to wait {snooze.seconds:.0f} s."
    except (Permanent, client.AIUnavailable, client.BadAnswer) as error:
        return str(error)
    return None
