"""Prices of hosted models, known without a network."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.api.settings import TeacherConfig
from services.api.teacher_prices import find_prices


@pytest.mark.parametrize(
    ("url", "model"),
    [
        ("https://api.openai.com/v1", "gpt-4o-mini"),
        ("https://openrouter.ai/api/v1", "openai/gpt-4o-mini"),
        ("https://api.anthropic.com/v1/", "claude-sonnet-4-5"),
    ],
)
def test_hosted_models_have_prices(url: str, model: str) -> None:
    prices = find_prices(url, model)
    assert prices is not None
    assert 0 < prices.cached_prompt < prices.prompt < prices.completion
    assert "genai-prices" in prices.source


@pytest.mark.parametrize(
    ("url", "model"),
    [("http://127.0.0.1:8000", "gpt-4o-mini"), ("https://api.openai.com/v1", "of-nobody")],
)
def test_others_have_none(url: str, model: str) -> None:
    assert find_prices(url, model) is None


def test_configured_prices_go_first() -> None:
    known = {"url": "https://api.openai.com/v1", "api": "openai", "model": "gpt-4o-mini"}
    assert TeacherConfig.model_validate(known).compute_cost(1_000_000, 0) == pytest.approx(0.15)
    own = TeacherConfig.model_validate({**known, "prompt_price": 1, "completion_price": 2})
    assert own.compute_cost(1_000_000, 1_000_000, 500_000) == pytest.approx(3.0)
    with pytest.raises(ValidationError, match="bundled ones are in USD"):
        TeacherConfig.model_validate({**known, "currency": "EUR"})
