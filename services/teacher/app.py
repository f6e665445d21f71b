"""The HTTP surface over one engine: TGI's routes, its errors, its documentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

import qcrd
from services.teacher.engines.base import Engine
from services.teacher.errors import InvalidApiKey, InvalidBody, TeacherError
from services.teacher.inference.session import InferenceService
from services.teacher.routes import native, openai, sagemaker_vertex, status
from services.teacher.routes.common import GenerationRoutes
from services.teacher.settings import ServerSettings

RouterFactory = Callable[[GenerationRoutes], APIRouter]
ROUTER_FACTORIES: Sequence[RouterFactory] = (
    native.create_router,
    openai.create_router,
    sagemaker_vertex.create_router,
)
"""The groups of generating routes; a server of another kind brings its own."""

HTTP_ERROR_TYPES = {404: "not_found", 405: "method_not_allowed"}


def create_app(
    engine: Engine,
    settings: ServerSettings,
    *,
    router_factories: Sequence[RouterFactory] = ROUTER_FACTORIES,
) -> FastAPI:
    """The app over `engine`; it refuses requests until `app.state.inference.mark_ready()`."""
    app = FastAPI(
        title="qcrd teacher",
        version=qcrd.__version__,
        docs_url="/docs",
        redoc_url=None,
        openapi_url="/api-doc/openapi.json",
    )
    inference = InferenceService(engine, settings)
    app.state.inference = inference
    origins = (settings.cors_allow_origin or "*").split(",")
    app.add_middleware(
        CORSMiddleware,
        allow_origins=[origin.strip() for origin in origins],
        allow_methods=["GET", "POST"],
        allow_headers=["content-type"],
    )
    install_error_handlers(app, strict=settings.tgi_strict)
    app.include_router(status.create_router(inference))
    for create_router in router_factories:
        app.include_router(create_router(GenerationRoutes(inference)))
    return app


def install_error_handlers(app: FastAPI, *, strict: bool) -> None:
    """Register handlers that return every error as JSON, the only form that some clients read."""

    async def handle_teacher_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, TeacherError)
        if strict and isinstance(error, InvalidBody):
            return PlainTextResponse(error.message, error.status)
        if strict and isinstance(error, InvalidApiKey):
            return Response(status_code=error.status)
        retry_headers = (
            {} if strict or error.retry_after is None else {"retry-after": str(error.retry_after)}
        )
        return JSONResponse(error.body(), error.status, headers=retry_headers)

    async def handle_http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if strict:
            return Response(status_code=error.status_code, headers=error.headers)
        body = {
            "error": error.detail,
            "error_type": HTTP_ERROR_TYPES.get(error.status_code, "http"),
        }
        return JSONResponse(body, error.status_code, headers=error.headers)

    async def handle_unexpected_error(_: Request, error: Exception) -> Response:
        """The response to an unexpected exception; the server logs it afterwards."""
        return JSONResponse({"error": type(error).__name__, "error_type": "internal"}, 500)

    app.add_exception_handler(TeacherError, handle_teacher_error)
    app.add_exception_handler(HTTPException, handle_http_error)
    app.add_exception_handler(Exception, handle_unexpected_error)
