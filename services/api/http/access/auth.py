"""Authentication middleware: API keys, their scopes and their request rates."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qcrd.errors import Forbidden, QcrdError, Unauthorized
from qcrd.records.api_keys import ApiKey
from qcrd.records.api_keys import ApiKeyScope as KeyScope
from qcrd.runtime.http.error_responses import build_error_response
from services.api.http.access.api_keys import ANONYMOUS_KEY, ApiKeyStore
from services.api.http.access.rate_limit import RateLimiter, RateLimitStatus

PUBLIC_PATHS = frozenset({"/v1/spec.schema.json"})
"""What editors read, which send no key: it is in the package too."""
READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class AuthMiddleware:
    """Puts the key into `scope["state"]["key"]`, or responds 401, 403 or 429 under `/v1`."""

    def __init__(self, app: ASGIApp, *, api_keys: ApiKeyStore, rate_limiter: RateLimiter) -> None:
        self._app = app
        self._api_keys = api_keys
        self._rate_limiter = rate_limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_public = scope["type"] != "http" or scope["path"] in PUBLIC_PATHS
        if is_public or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        try:
            key = self._authenticate(Headers(scope=scope))
            _check_scope(key, scope["method"])
            # Only a limited key needs a request to Redis.
            rate_limit = (
                await run_in_threadpool(self._rate_limiter.consume, key)
                if key.requests_per_minute
                else None
            )
        except QcrdError as error:
            await build_error_response(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["key"] = key
        await self._app(scope, receive, _add_rate_limit_headers(rate_limit, send))

    def _authenticate(self, headers: Headers) -> ApiKey:
        if not self._api_keys.auth_required:
            return ANONYMOUS_KEY
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        # An unknown scheme costs the same look-up, so timing reveals nothing.
        key = self._api_keys.find(secret.strip())
        if key is None or scheme.lower() != "bearer":
            raise Unauthorized("no valid API key: send it as `Authorization: Bearer <key>`")
        return key


def _check_scope(key: ApiKey, method: str) -> None:
    required_scope = KeyScope.READ if method in READ_METHODS else KeyScope.WRITE
    if not key.has_scope(required_scope):
        raise Forbidden(
            f"key {key.name} lacks the scope `{required_scope}`, which {method} needs: use "
            "another key, or "
            "add the scope where keys are configured",
            code="insufficient_scope",
        )


def _add_rate_limit_headers(rate_limit: RateLimitStatus | None, send: Send) -> Send:
    if rate_limit is None:
        return send

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(rate_limit.to_headers())
        await send(message)

    return send_with_headers
