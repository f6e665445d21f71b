"""What an upstream says it is: a TGI's `/info`, or OpenAI's `/v1/models`."""

from __future__ import annotations

from services.teacher.engines.base import EngineInfo
from services.teacher.engines.upstream.grammar_forms import GRAMMAR_DIALECTS, find_dialect
from services.teacher.engines.upstream.wire import JSON

# An upstream that does not state its context; it will refuse what is too long for it itself.
DEFAULT_CONTEXT = 4096


def is_tgi(identity: JSON) -> bool:
    return "max_total_tokens" in identity


def parse_identity(
    identity: JSON,
    model: str,
    max_input_tokens: int | None,
    max_total_tokens: int | None,
) -> EngineInfo:
    """The limits that are given win over those that the upstream states."""
    tgi = is_tgi(identity)
    stated = max_total_tokens or _find_context(identity, model)
    total_limit = stated or DEFAULT_CONTEXT
    return EngineInfo(
        identity["model_id"] if tgi else model,
        "upstream",
        max_input_tokens or identity.get("max_input_tokens", total_limit - 1),
        total_limit,
        # An OpenAI-compatible server may have these; it does not say so.
        supports_token_ids=tgi,
        supports_logprobs=tgi,
        supports_seed=tgi,
        supports_grammar=tgi or find_dialect(identity) in GRAMMAR_DIALECTS,
        passes_chat_schema=not tgi,
        model_sha=identity.get("model_sha"),
        pipeline_tag=identity.get("model_pipeline_tag"),
        states_context=stated is not None,
    )


def _find_context(identity: JSON, model: str) -> int | None:
    """The tokens of prompt and answer together, as a TGI, vLLM or llama.cpp tells them."""
    models = [each for each in identity.get("data") or () if isinstance(each, dict)]
    named = [each for each in models if each.get("id") == model] or models
    stated = [identity.get("max_total_tokens")]
    for each in named:
        stated += [each.get("max_model_len"), (each.get("meta") or {}).get("n_ctx")]
    return next((length for length in stated if isinstance(length, int)), None)
