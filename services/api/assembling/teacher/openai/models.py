"""What `/models` of OpenAI-compatible servers tells of a model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

ANY_NAME = "llamacpp"
"""`owned_by` of a server that has one model, whatever name it is asked by."""
CONTEXT_FIELDS = (
    "max_model_len",  # vLLM, SGLang
    "context_length",  # OpenRouter, Together
    "context_window",  # Groq
    "max_context_length",  # Mistral, LM Studio
)


def find_context(models: Any, model: str) -> int | None:
    """The tokens of prompt and answer together; None where they are not told."""
    known = _list_entries(models)
    named = [each for each in known if each.get("id") == model] or known[: len(known) == 1]
    for each in named:
        meta = each.get("meta") if isinstance(each.get("meta"), dict) else {}
        for value in (*(each.get(name) for name in CONTEXT_FIELDS), (meta or {}).get("n_ctx")):
            if isinstance(value, int) and value > 0:
                return value
    return None


def list_models(models: Any) -> tuple[str, ...] | None:
    """The names that a request may have; None where they are not told, or any is taken."""
    known = _list_entries(models)
    if not known or any(each.get("owned_by") == ANY_NAME for each in known):
        return None
    return tuple(str(each["id"]) for each in known if each.get("id"))


def is_listed(model: str, names: Collection[str]) -> bool:
    """Gemini lists `models/NAME`, Ollama `NAME:latest`; both take the name alone."""
    return not {model, f"models/{model}", f"{model}:latest"}.isdisjoint(names)


def _list_entries(models: Any) -> list[dict[str, Any]]:
    listed = models.get("data") if isinstance(models, dict) else models
    return [each for each in listed or () if isinstance(each, dict)]
