"""Prices of hosted models, from the list that ships with `genai-prices`. Nothing is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from genai_prices import data_snapshot


@dataclass(frozen=True)
class TokenPrices:
    """Per million tokens; `cached_prompt` of those that the provider had read before. `source`
    says where they stand."""

    prompt: float
    completion: float
    cached_prompt: float
    source: str

    def compute_cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> float:
        """`cached_tokens` are some of `prompt_tokens`."""
        read = prompt_tokens - cached_tokens
        return (
            self.prompt * read
            + self.cached_prompt * cached_tokens
            + self.completion * completion_tokens
        ) / 1e6


@lru_cache(maxsize=256)
def find_prices(url: str, model: str) -> TokenPrices | None:
    """In US dollars, of `model` at the provider of `url`; None where the list does not have it.

    Where a price rises with a request's length, the price of short ones: rationales are asked for
    by short prompts.
    """
    try:
        _, found = data_snapshot.get_snapshot().find_provider_model(model, None, None, url)
    except LookupError:
        return None
    prices = found.get_prices(datetime.now(UTC))
    prompt, completion = _get_base(prices.input_mtok), _get_base(prices.output_mtok)
    if prompt is None or completion is None:
        return None
    cached = _get_base(prices.cache_read_mtok)
    source = f"genai-prices {version('genai-prices')}"
    return TokenPrices(prompt, completion, prompt if cached is None else cached, source)


def _get_base(price: Any) -> float | None:
    value = getattr(price, "base", price)
    return float(value) if isinstance(value, Decimal | int | float) else None
