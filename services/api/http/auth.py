"""Who may come in: the key of a request, its scope, its rate. Before any of a body is read."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qcrd.errors import Forbidden, QcrdError, Unauthorized
from qcrd.records.api_keys import ApiKey
from qcrd.records.api_keys import ApiKeyScope as KeyScope
from services.api.http.api_keys import ANYBODY, Keyring
from services.api.http.errors import answer
from services.api.http.rate_limit import Allowance, Rates

READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Admission:
    """Leaves the key in `scope["state"]["key"]`, or answers 401, 403 or 429 under `/v1`."""

    def __init__(self, app: ASGIApp, *, keyring: Keyring, rates: Rates) -> None:
        self._app = app
        self._keyring = keyring
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        try:
            key = self._known(Headers(scope=scope))
            _permitted(key, scope["method"])
            # Only a limited key is worth the way to Redis.
            allowance = (
                await run_in_threadpool(self._rates.spend, key) if key.requests_per_minute else None
            )
        except QcrdError as error:
            await answer(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["key"] = key
        await self._app(scope, receive, _telling(allowance, send))

    def _known(self, headers: Headers) -> ApiKey:
        if not self._keyring.required:
            return ANYBODY
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        # An unknown scheme costs the same look-up: timing tells nothing.
        key = self._keyring.find(secret.strip())
        if key is None or scheme.lower() != "bearer":
            raise Unauthorized("no valid API key: send it as `Authorization: Bearer <key>`")
        return key


def _permitted(key: ApiKey, method: str) -> None:
    needed = KeyScope.READ if method in READING else KeyScope.WRITE
    if not key.has_scope(needed):
        raise Forbidden(
            f"key {key.name} lacks the scope `{needed}`, which {method} needs: use another key, or "
            "add the scope where keys are configured",
            code="insufficient_scope",
        )


def _telling(allowance: Allowance | None, send: Send) -> Send:
    if allowance is None:
        return send

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(allowance.headers())
        await send(message)

    return told
