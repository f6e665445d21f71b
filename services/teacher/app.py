"""The HTTP surface over one engine: TGI's routes, its errors, its documentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

import qcrd
from services.teacher.engines.base import Engine
from services.teacher.errors import Denied, TeacherError, Unreadable
from services.teacher.inference.session import Sessions
from services.teacher.routes import native, openai, sagemaker_vertex, status
from services.teacher.routes.common import Routes
from services.teacher.settings import ServerSettings

Room = Callable[[Routes], APIRouter]
ROOMS: Sequence[Room] = (native.router, openai.router, sagemaker_vertex.router)
"""The groups of generating routes; a server of another kind brings its own."""

NAMES = {404: "not_found", 405: "method_not_allowed"}


def create_app(
    engine: Engine, settings: ServerSettings, *, rooms: Sequence[Room] = ROOMS
) -> FastAPI:
    """`app.state.sessions.loaded()` opens the door once the engine has started."""
    app = FastAPI(
        title="qcrd teacher",
        version=qcrd.__version__,
        docs_url="/docs",
        redoc_url=None,
        openapi_url="/api-doc/openapi.json",
    )
    sessions = Sessions(engine, settings)
    app.state.sessions = sessions
    origins = (settings.cors_allow_origin or "*").split(",")
    app.add_middleware(
        CORSMiddleware,
        allow_origins=[origin.strip() for origin in origins],
        allow_methods=["GET", "POST"],
        allow_headers=["content-type"],
    )
    install_errors(app, strict=settings.tgi_strict)
    app.include_router(status.router(sessions))
    for room in rooms:
        app.include_router(room(Routes(sessions)))
    return app


def install_errors(app: FastAPI, *, strict: bool) -> None:
    """Every error as JSON, which is all that some clients can read; TGI leaves some without."""

    async def teacher_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, TeacherError)
        if strict and isinstance(error, Unreadable):
            return PlainTextResponse(error.message, error.status)
        if strict and isinstance(error, Denied):
            return Response(status_code=error.status)
        wait = (
            {} if strict or error.retry_after is None else {"retry-after": str(error.retry_after)}
        )
        return JSONResponse(error.body(), error.status, headers=wait)

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if strict:
            return Response(status_code=error.status_code, headers=error.headers)
        body = {"error": error.detail, "error_type": NAMES.get(error.status_code, "http")}
        return JSONResponse(body, error.status_code, headers=error.headers)

    async def crash(_: Request, error: Exception) -> Response:
        """A bug of ours; the server logs it after this answer."""
        return JSONResponse({"error": type(error).__name__, "error_type": "internal"}, 500)

    app.add_exception_handler(TeacherError, teacher_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, crash)
