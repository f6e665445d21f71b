"""Path middleware: a slash behind the path of a route is one too many, and left out."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

API_PREFIX = "/v1/"


class TrailingSlashMiddleware:
    """Takes `/v1/files/` as `/v1/files`, before limits and checks look up what the path is for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(API_PREFIX) and path.endswith("/"):
            scope = {**scope, "path": path[:-1]}
            if raw_path := scope.get("raw_path"):
                scope["raw_path"] = raw_path.removesuffix(b"/")
        await self._app(scope, receive, send)
