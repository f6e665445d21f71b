"""Status routes: health, info, models, metrics."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

import qcrd
from services.teacher.inference.session import InferenceService
from services.teacher.inference.wire import JSON


def create_router(inference: InferenceService) -> APIRouter:
    routes = APIRouter()
    unhealthy: dict[int | str, JSON] = {
        503: {"description": "the model is loading, or its last generation failed"}
    }

    @routes.get("/", responses=unhealthy)
    @routes.get("/health", responses=unhealthy)
    @routes.get("/ping", responses=unhealthy)
    async def health() -> Response:
        if await inference.check_health():
            return Response()
        return JSONResponse({"error": "unhealthy", "error_type": "healthcheck"}, 503)

    @routes.get("/ready", responses=unhealthy)
    async def ready() -> Response:
        return await health()

    @routes.get("/info")
    async def info() -> JSON:
        inference.check_ready()
        return build_info(inference)

    @routes.get("/v1/models")
    async def list_models() -> JSON:
        inference.check_ready()
        name = inference.engine.info.model_id
        model = {"id": name, "object": "model", "created": 0, "owned_by": name}
        return {"object": "list", "data": [model]}

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(inference.render_metrics(), media_type="text/plain; version=0.0.4")

    return routes


def build_info(inference: InferenceService) -> JSON:
    """TGI's keys, then ours: which engine runs, and which parts of its output it really has."""
    info, settings = inference.engine.info, inference.settings
    body: JSON = {
        "model_id": info.model_id,
        "model_sha": info.model_sha,
        "model_pipeline_tag": info.pipeline_tag,
        "max_concurrent_requests": inference.limiter.max_concurrent_requests,
        "max_best_of": settings.max_best_of,
        "max_stop_sequences": settings.max_stop_sequences,
        "max_input_tokens": info.max_input_tokens,
        "max_total_tokens": info.max_total_tokens,
        "validation_workers": 1,
        "max_client_batch_size": settings.max_client_batch_size,
        "router": "text-generation-router",
        "version": qcrd.__version__,
        "sha": None,
        "docker_label": None,
    }
    if settings.tgi_strict:
        return body
    return {
        **body,
        "engine": info.engine,
        "token_ids": info.supports_token_ids,
        "logprobs": info.supports_logprobs,
        "seeds": info.supports_seed,
        "grammar": info.supports_grammar and not settings.disable_grammar_support,
        "chat_schema": (info.supports_grammar or info.passes_chat_schema)
        and not settings.disable_grammar_support,
        "prefill": info.supports_prompt_logprobs,
        "context_known": info.states_context,
        "adapters": list(info.adapters),
        "max_top_n_tokens": settings.max_top_n_tokens,
        "max_choices": inference.max_choices,
    }
