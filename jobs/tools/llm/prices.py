"""The cost of a call, from the prices in LLM_PRICES. None are shipped: prices change, and a wrong one is worse than none."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from monolith.config import settings

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

MILLION = 1_000_000
MAX_TOKENS = 100_000_000  # in one call; a larger count is a server fault and is ignored
NO_PRICE = "No price is set for {model} (LLM_PRICES), so its cost counts as 0."


@dataclass(frozen=True)
class Usage:
    """The tokens of one call. `cached` are those of the input that the server took from its prompt cache."""

    input_tokens: int
    output_tokens: int
    cached: int = 0

    def usd(self) -> Decimal:
        """Returns the cost in USD; 0 if no price is set for the model."""
        input_price, output_price, *rest = settings().llm_prices.get(settings().openai_model, (Decimal(0), Decimal(0)))
        cached_price = rest[0] if rest else input_price
        uncached = self.input_tokens - self.cached
        return (input_price * uncached + cached_price * self.cached + output_price * self.output_tokens) / MILLION


def usage_of(completion: ChatCompletion) -> Usage:
    """Returns the usage that the server reports. Implausible counts become 0."""
    usage = getattr(completion, "usage", None)
    read, written = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    cached = _count(getattr(usage, "prompt_tokens_details", None), "cached_tokens")
    return Usage(read, written, min(cached, read))


def _count(usage: Any, name: str) -> int:
    count = getattr(usage, name, 0)
    return count if type(count) is int and 0 <= count <= MAX_TOKENS else 0


def missing_price_note() -> str | None:
    """Returns a sentence saying that the model has no price; None if it has one."""
    model = settings().openai_model
    return None if model in settings().llm_prices else NO_PRICE.format(model=model)
