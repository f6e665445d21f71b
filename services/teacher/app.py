"""The HTTP surface: TGI's native routes over one engine."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

import qcrd
from services.teacher import sse, wire
from services.teacher.engines.base import Engine
from services.teacher.errors import TeacherError
from services.teacher.permits import Permits
from services.teacher.reading import reads, requires, while_connected
from services.teacher.session import Answer, Sessions
from services.teacher.settings import ServerSettings
from services.teacher.validation import MAX_BEST_OF, Limits

JSON = dict[str, Any]
NAMES = {404: "not_found", 405: "method_not_allowed"}


def create_app(engine: Engine, settings: ServerSettings) -> FastAPI:
    """`app.state.sessions.loaded()` opens the door once the engine has started."""
    app = FastAPI(title="qcrd teacher", version=qcrd.__version__)
    limits = Limits(settings.max_stop_sequences, settings.max_top_n_tokens)
    permits = Permits(settings.max_concurrent_requests)
    sessions = Sessions(engine, permits=permits, limits=limits)
    app.state.sessions = sessions
    app.add_exception_handler(TeacherError, _teacher_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _crash)
    _status_routes(app, sessions)
    _generation_routes(app, sessions, settings)
    return app


def _status_routes(app: FastAPI, sessions: Sessions) -> None:
    @app.get("/")
    @app.get("/health")
    @app.get("/ping")
    async def health() -> Response:
        if sessions.ready:
            return Response()
        return JSONResponse({"error": "unhealthy", "error_type": "healthcheck"}, 503)

    @app.get("/ready")
    async def ready() -> Response:
        return await health()

    @app.get("/info")
    async def info() -> JSON:
        sessions.check_ready()
        return _info(sessions)

    @app.get("/v1/models")
    async def models() -> JSON:
        sessions.check_ready()
        name = sessions.engine.info.model_id
        model = {"id": name, "object": "model", "created": 0, "owned_by": name}
        return {"object": "list", "data": [model]}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(sessions.exposition(), media_type="text/plain; version=0.0.4")


def _generation_routes(app: FastAPI, sessions: Sessions, settings: ServerSettings) -> None:
    key = settings.api_key.get_secret_value() if settings.api_key else None
    compute = {"x-compute-type": settings.compute_type}
    guarded = [Depends(requires(key))]
    read_native = reads(wire.GenerateRequest, settings.payload_limit)
    read_compat = reads(wire.CompatRequest, settings.payload_limit)
    read_tokenize = reads(wire.TokenizeRequest, settings.payload_limit)

    async def answered(request: Request, body: wire.GenerateRequest, *, array: bool) -> Response:
        answer = await while_connected(request, sessions.answer(body))
        if answer is None:
            return Response(status_code=499)  # nobody reads it; the access log does
        content = [answer.body] if array else answer.body
        return JSONResponse(content, headers={**compute, **_headers(answer)})

    def streamed(body: wire.GenerateRequest) -> Response:
        headers = {**sse.HEADERS, "x-compute-characters": str(len(body.inputs)), **compute}
        events = sse.with_pings(sessions.events(body))
        return StreamingResponse(events, media_type=sse.MEDIA_TYPE, headers=headers)

    @app.post("/generate", dependencies=guarded)
    async def generate(request: Request) -> Response:
        sessions.check_ready()
        return await answered(request, await read_native(request), array=False)

    @app.post("/generate_stream", dependencies=guarded)
    async def generate_stream(request: Request) -> Response:
        sessions.check_ready()
        return streamed(await read_native(request))

    @app.post("/", dependencies=guarded)
    async def compat(request: Request) -> Response:
        sessions.check_ready()
        body = await read_compat(request)
        return streamed(body) if body.stream else await answered(request, body, array=True)

    @app.post("/tokenize", dependencies=guarded)
    async def tokenize(request: Request) -> list[JSON]:
        sessions.check_ready()
        pieces = await sessions.engine.tokenize((await read_tokenize(request)).inputs)
        if pieces is None:
            raise HTTPException(404, "this engine has no tokenizer")
        return [wire.simple_token(piece) for piece in pieces]


def _info(sessions: Sessions) -> JSON:
    """TGI's keys, then ours: which engine runs, and whether its token ids are real."""
    info = sessions.engine.info
    return {
        "model_id": info.model_id,
        "model_sha": info.model_sha,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": sessions.permits.count,
        "max_best_of": MAX_BEST_OF,
        "max_stop_sequences": sessions.limits.max_stop_sequences,
        "max_input_tokens": info.max_input_tokens,
        "max_total_tokens": info.max_total_tokens,
        "validation_workers": 1,
        "max_client_batch_size": 1,
        "router": "qcrd-teacher",
        "version": qcrd.__version__,
        "sha": None,
        "docker_label": None,
        "engine": info.engine,
        "token_ids": info.token_ids,
    }


def _headers(answer: Answer) -> dict[str, str]:
    """TGI's timing headers; milliseconds except x-compute-time, which is in seconds."""
    seconds, ids = answer.seconds, answer.request.prompt_ids
    timed = {
        f"x-{name}-time": str(round(seconds[name] * 1000))
        for name in ("total", "validation", "queue", "inference")
    }
    return {
        **timed,
        "x-compute-time": f"{seconds['total']:.6f}",
        "x-compute-characters": str(len(answer.request.prompt)),
        "x-time-per-token": str(round(seconds["inference"] * 1000 / max(answer.tokens, 1))),
        "x-prompt-tokens": str(len(ids or ())),
        "x-generated-tokens": str(answer.tokens),
    }


async def _teacher_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, TeacherError)
    wait = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return JSONResponse(error.body(), error.status, headers=wait)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {"error": error.detail, "error_type": NAMES.get(error.status_code, "http")}
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _crash(_: Request, error: Exception) -> Response:
    """A bug of ours; the server logs it after this answer. The clients can read only JSON."""
    return JSONResponse({"error": type(error).__name__, "error_type": "internal"}, 500)
