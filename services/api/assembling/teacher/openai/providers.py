"""What providers leave undone without a word, or are known to refuse, from their documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

MANY = 64
"""Choices of a provider that takes `n`: as many as a job may want of a prompt."""


@dataclass(frozen=True)
class Provider:
    """`address` is a host or, of a server that people run themselves, its port. `left_out` are
    parameters that it ignores without a word, or refuses; `enforces_schema`: a strict schema holds
    for all of its current models. `source` says where that stands."""

    name: str
    address: str | int
    source: str
    max_choices: int = MANY
    left_out: Sequence[str] = ()
    enforces_schema: bool = False

    def matches(self, host: str, port: int | None) -> bool:
        if isinstance(self.address, int):
            return port == self.address
        return host == self.address or host.endswith(f".{self.address}")


PROVIDERS = (
    Provider(
        "OpenAI",
        "api.openai.com",
        "its OpenAPI document 2.3.0: n 1 to 128, strict schemas",
        enforces_schema=True,
    ),
    Provider(
        "Azure OpenAI",
        "openai.azure.com",
        "not seen; taken to be as OpenAI",
        enforces_schema=True,
    ),
    Provider(
        "Anthropic",
        "api.anthropic.com",
        "OpenAI SDK compatibility: n must be exactly 1, seed is ignored",
        max_choices=1,
        left_out=("seed",),
    ),
    Provider(
        "Gemini",
        "generativelanguage.googleapis.com",
        "reports of 2025 and 2026: several candidates and seed are refused",
        max_choices=1,
        left_out=("seed",),
    ),
    Provider("OpenRouter", "openrouter.ai", "n is not in its request schema", max_choices=1),
    Provider("DeepSeek", "api.deepseek.com", "n is not in its reference", max_choices=1),
    Provider("Groq", "api.groq.com", "OpenAI compatibility: n must be 1", max_choices=1),
    Provider(
        "Mistral",
        "api.mistral.ai",
        "its client's schema: the seed is random_seed, usage comes unasked; other fields are 422",
        left_out=("seed", "stream_options"),
    ),
    Provider("Together", "api.together.ai", "its OpenAPI document, n 1 to 128"),
    Provider("xAI", "api.x.ai", "guide Reasoning; n of 2 is reported to work"),
    Provider(
        "Ollama", 11434, "OpenAI compatibility and openai.go: n is no field of it", max_choices=1
    ),
    Provider("LM Studio", 1234, "supported payload parameters: n is none", max_choices=1),
)
"""Read on 2026-11-28 in the documents and sources named; none of them was asked."""


def find_provider(url: str) -> Provider | None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return next((each for each in PROVIDERS if each.matches(host, parts.port)), None)
