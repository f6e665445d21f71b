"""What `/models` of OpenAI-compatible servers tells of a model."""

from __future__ import annotations

from typing import Any

CONTEXT_FIELDS = (
    "max_model_len",  # vLLM, SGLang
    "context_length",  # OpenRouter, Together
    "context_window",  # Groq
    "max_context_length",  # Mistral, LM Studio
)


def find_context(models: Any, model: str) -> int | None:
    """The tokens of prompt and answer together; None where they are not told."""
    listed = models.get("data") if isinstance(models, dict) else models
    known = [each for each in listed or () if isinstance(each, dict)]
    named = [each for each in known if each.get("id") == model] or known[: len(known) == 1]
    for each in named:
        meta = each.get("meta") if isinstance(each.get("meta"), dict) else {}
        for value in (*(each.get(name) for name in CONTEXT_FIELDS), (meta or {}).get("n_ctx")):
            if isinstance(value, int) and value > 0:
                return value
    return None
