"""Shared parts of the generating routes: API key, bodies in OpenAPI, headers, streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from services.teacher import sse
from services.teacher.inference.results import GenerationResult
from services.teacher.inference.session import InferenceService
from services.teacher.inference.wire import JSON, WireModel
from services.teacher.request_body import BodyNormalizer, make_body_reader, require_api_key
from services.teacher.request_body import read_json_body as read_body

B = TypeVar("B", bound=WireModel)
Handler = TypeVar("Handler", bound=Callable[..., Any])
ERROR_RESPONSES: dict[int | str, JSON] = {
    400: {"description": "the body is not JSON"},
    413: {"description": "the body is too long"},
    415: {"description": "the body is not declared as JSON"},
    422: {"description": "the request is refused: a field's type, a limit, a template, a tool"},
    424: {"description": "the engine failed"},
    429: {"description": "no permit is free"},
    500: {"description": "the engine ended without a last token"},
    503: {"description": "the model is loading"},
}
JSON_TYPE = "application/json"
ANSWER_OR_STREAM = (JSON_TYPE, sse.MEDIA_TYPE)
"""The media types of routes whose body's `stream` chooses between them."""
CLIENT_CLOSED_REQUEST = Response(status_code=499)
"""The response to a client that has left, for the access log."""


class GenerationRoutes:
    """An `APIRouter` whose POST routes require the key and a loaded engine and declare a body."""

    def __init__(self, inference: InferenceService) -> None:
        settings = inference.settings
        self.inference = inference
        self.router = APIRouter()
        self._payload_limit = settings.payload_limit
        self._compute_headers = {"x-compute-type": settings.compute_type}
        key = settings.api_key.get_secret_value() if settings.api_key else None
        self._api_key_dependency = Depends(require_api_key(key))

    def post(
        self,
        path: str,
        *models: type[WireModel],
        requires_key: bool = True,
        media_types: Sequence[str] = (JSON_TYPE,),
    ) -> Callable[[Handler], Handler]:
        """Decorates the handler of `path`, whose body is one of `models`, and whose response is of
        one of `media_types`."""
        schemas: list[JSON] = [model.model_json_schema() for model in models]
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        content = {"application/json": {"schema": _inline_definitions(schema)}}
        ready = Depends(self._require_ready)
        return self.router.post(
            path,
            dependencies=[self._api_key_dependency, ready] if requires_key else [ready],
            response_class=Response if sse.MEDIA_TYPE in media_types else JSONResponse,
            responses={**ERROR_RESPONSES, 200: _describe_success(media_types)},
            openapi_extra={"requestBody": {"required": True, "content": content}},
        )

    async def _require_ready(self) -> None:
        self.inference.check_ready()

    async def parse_body(
        self, request: Request, model: type[B], normalize: BodyNormalizer | None = None
    ) -> B:
        """Raises `Unreadable`."""
        return await make_body_reader(model, self._payload_limit, normalize)(request)

    async def read_raw_body(self, request: Request) -> bytes:
        """Raises `Unreadable`."""
        return await read_body(request, self._payload_limit)

    def build_response(
        self,
        content: Any,
        results: Sequence[GenerationResult],
        *,
        characters: int,
        compute_time: bool = True,
    ) -> Response:
        """`whole`: with x-compute-time, which TGI leaves out where several prompts are summed."""
        headers = {
            **self._compute_headers,
            **build_timing_headers(results, characters, compute_time=compute_time),
        }
        return JSONResponse(content, headers=headers)

    def build_stream_response(
        self, events: AsyncGenerator[bytes, None], *, characters: int
    ) -> Response:
        headers = {**self._compute_headers, "x-compute-characters": str(characters)}
        return sse.EventStream(events, headers)


def _describe_success(media_types: Sequence[str]) -> JSON:
    if sse.MEDIA_TYPE not in media_types:
        return {"description": "the answer"}
    is_chosen = JSON_TYPE in media_types
    stream = "its pieces as server-sent events"
    return {
        "description": f"the answer, or with `stream` {stream}" if is_chosen else stream,
        "content": {media_type: {} for media_type in media_types},
    }


def build_timing_headers(
    results: Sequence[GenerationResult], characters: int, *, compute_time: bool = True
) -> dict[str, str]:
    """TGI's headers, summed over `results`; milliseconds, but seconds in x-compute-time."""

    def total(name: str) -> float:
        return sum(result.durations[name] for result in results)

    generated_tokens = sum(result.generated_tokens for result in results)
    time_headers = {
        f"x-{name}-time": str(round(total(name) * 1000))
        for name in ("total", "validation", "queue", "inference")
    }
    compute = {"x-compute-time": f"{total('total'):.6f}"} if compute_time else {}
    return {
        **time_headers,
        **compute,
        "x-compute-characters": str(characters),
        "x-time-per-token": str(round(total("inference") * 1000 / max(generated_tokens, 1))),
        "x-prompt-tokens": str(sum(result.input_length or 0 for result in results)),
        "x-generated-tokens": str(generated_tokens),
    }


def _inline_definitions(schema: JSON) -> JSON:
    """`schema` without `$defs`: OpenAPI resolves references from the document's root only."""
    definitions: JSON = {}

    def collect_definitions(node: Any) -> None:
        if isinstance(node, dict):
            definitions.update(node.get("$defs", {}))
            for value in node.values():
                collect_definitions(value)
        elif isinstance(node, list):
            for value in node:
                collect_definitions(value)

    def resolve_references(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve_references(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolve_references(definitions[node["$ref"].rpartition("/")[2]])
        return {
            key: resolve_references(value)
            for key, value in node.items()
            if key not in ("$defs", "discriminator")
        }

    collect_definitions(schema)
    resolved: JSON = resolve_references(schema)
    return resolved
