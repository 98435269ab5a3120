"""What a call of the LLM cost, by the prices that the settings give. None are shipped: they change, and a wrong one is worse than none."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from monolith.config import settings

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

MILLION = 1_000_000
MOST_TOKENS = 100_000_000  # in one call; more is no answer but a fault of the server
UNKNOWN = "No price is set for {model} (LLM_PRICES), so its cost counts as 0."


@dataclass(frozen=True)
class Usage:
    """The tokens of one call. `cached` are those of the input that the server had kept from an earlier one."""

    input_tokens: int
    output_tokens: int
    cached: int = 0

    def usd(self) -> Decimal:
        """What they cost; 0 where no price is known."""
        read, written, *rest = settings().llm_prices.get(settings().openai_model, (Decimal(0), Decimal(0)))
        read_again = rest[0] if rest else read
        return (read * (self.input_tokens - self.cached) + read_again * self.cached + written * self.output_tokens) / MILLION


def usage_of(completion: ChatCompletion) -> Usage:
    """What the server says it took; nothing of it is taken on trust."""
    usage = getattr(completion, "usage", None)
    read, written = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    cached = _count(getattr(usage, "prompt_tokens_details", None), "cached_tokens")
    return Usage(read, written, min(cached, read))


def _count(usage: Any, name: str) -> int:
    count = getattr(usage, name, 0)
    return count if type(count) is int and 0 <= count <= MOST_TOKENS else 0


def what_is_unknown() -> str | None:
    """That the model has no price, in a sentence; None when it has one."""
    model = settings().openai_model
    return None if model in settings().llm_prices else UNKNOWN.format(model=model)
