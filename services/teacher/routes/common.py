"""What the generating routes share: the key, bodies in OpenAPI, headers, streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from services.teacher import sse
from services.teacher.inference.session import GenerationResult, InferenceService
from services.teacher.inference.wire import JSON, WireModel
from services.teacher.request_body import BodyNormalizer, make_body_reader, require_api_key
from services.teacher.request_body import read_json_body as read_body

B = TypeVar("B", bound=WireModel)
Handler = TypeVar("Handler", bound=Callable[..., Any])
ERRORS: dict[int | str, JSON] = {
    400: {"description": "the body is not JSON"},
    413: {"description": "the body is too long"},
    415: {"description": "the body is not declared as JSON"},
    422: {"description": "the request is refused: a field's type, a limit, a template, a tool"},
    424: {"description": "the engine failed"},
    429: {"description": "no permit is free"},
    500: {"description": "the engine ended without a last token"},
    503: {"description": "the model is loading"},
}
GONE = Response(status_code=499)
"""Nobody reads it; the access log does."""


class Routes:
    """An `APIRouter` whose POST routes want the key and a loaded engine, and declare their body."""

    def __init__(self, sessions: InferenceService) -> None:
        settings = sessions.settings
        self.sessions = sessions
        self.router = APIRouter()
        self._limit = settings.payload_limit
        self._compute = {"x-compute-type": settings.compute_type}
        key = settings.api_key.get_secret_value() if settings.api_key else None
        self._guard = Depends(require_api_key(key))

    def post(
        self, path: str, *models: type[WireModel], guarded: bool = True
    ) -> Callable[[Handler], Handler]:
        """Decorates the handler of `path`, whose body is one of `models`."""
        schemas: list[JSON] = [model.model_json_schema() for model in models]
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        content = {"application/json": {"schema": _inlined(schema)}}
        loaded = Depends(self._loaded)
        return self.router.post(
            path,
            dependencies=[self._guard, loaded] if guarded else [loaded],
            responses=ERRORS,
            openapi_extra={"requestBody": {"required": True, "content": content}},
        )

    async def _loaded(self) -> None:
        self.sessions.check_ready()

    async def read(
        self, request: Request, model: type[B], loosen: BodyNormalizer | None = None
    ) -> B:
        """Raises `Unreadable`."""
        return await make_body_reader(model, self._limit, loosen)(request)

    async def raw(self, request: Request) -> bytes:
        """Raises `Unreadable`."""
        return await read_body(request, self._limit)

    def respond(
        self,
        content: Any,
        answers: Sequence[GenerationResult],
        *,
        characters: int,
        whole: bool = True,
    ) -> Response:
        """`whole`: with x-compute-time, which TGI leaves out where several prompts are summed."""
        headers = {**self._compute, **timing(answers, characters, whole=whole)}
        return JSONResponse(content, headers=headers)

    def stream(self, events: AsyncGenerator[bytes, None], *, characters: int) -> Response:
        headers = {**self._compute, "x-compute-characters": str(characters)}
        return sse.EventStream(events, headers)


def timing(
    answers: Sequence[GenerationResult], characters: int, *, whole: bool = True
) -> dict[str, str]:
    """TGI's headers, summed over `answers`; milliseconds, but seconds in x-compute-time."""

    def total(name: str) -> float:
        return sum(answer.durations[name] for answer in answers)

    generated = sum(answer.generated_tokens for answer in answers)
    timed = {
        f"x-{name}-time": str(round(total(name) * 1000))
        for name in ("total", "validation", "queue", "inference")
    }
    compute = {"x-compute-time": f"{total('total'):.6f}"} if whole else {}
    return {
        **timed,
        **compute,
        "x-compute-characters": str(characters),
        "x-time-per-token": str(round(total("inference") * 1000 / max(generated, 1))),
        "x-prompt-tokens": str(sum(answer.input_length or 0 for answer in answers)),
        "x-generated-tokens": str(generated),
    }


def _inlined(schema: JSON) -> JSON:
    """`schema` without `$defs`: OpenAPI resolves references from the document's root only."""
    definitions: JSON = {}

    def gather(node: Any) -> None:
        if isinstance(node, dict):
            definitions.update(node.get("$defs", {}))
            for value in node.values():
                gather(value)
        elif isinstance(node, list):
            for value in node:
                gather(value)

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rpartition("/")[2]])
        return {
            key: resolve(value)
            for key, value in node.items()
            if key not in ("$defs", "discriminator")
        }

    gather(schema)
    resolved: JSON = resolve(schema)
    return resolved
