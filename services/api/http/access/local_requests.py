"""A gateway without keys serves this machine's own programs, and no web page in a browser on it.

Such a page can have a name of its own resolve to loopback, or send a form there. The browser then
names the page's host in `Host` or its origin in `Origin`, which no local program does.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from qcrd.errors import Forbidden
from qcrd.runtime.http.error_responses import build_error_response
from services.api.settings import is_loopback


class LocalRequestMiddleware:
    """Responds 403 to requests for another host than loopback, or from another origin."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            places = [f"//{headers.get('host', '')}", *headers.getlist("origin")]
            if not all(_is_local(place) for place in places):
                error = Forbidden(
                    "this gateway has no API keys, so it serves programs of its own machine only: "
                    "ask it as 127.0.0.1 or localhost, or set QCRD_API_KEYS to serve others",
                    code="not_local",
                )
                await build_error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_local(url: str) -> bool:
    """Whether it names this machine. What cannot be read as an address is refused elsewhere."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return True
