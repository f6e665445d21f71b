"""The clients of one teacher, replaced now and then: each keeps what it has streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from huggingface_hub import AsyncInferenceClient

READ_TIMEOUT_SECONDS = 120.0
"""A TGI server writes a comment every 15 s while a request waits, so this one is gone."""
MAX_REQUESTS_PER_CLIENT = 256
"""Requests after which a client is replaced: it keeps every response it streamed until closed."""


@dataclass
class _PooledClient:
    client: AsyncInferenceClient
    request_count: int = 0
    in_flight: int = 0


class ClientPool:
    """One client at a time; those before it are closed once their last request is done."""

    def __init__(self, url: str, headers: Mapping[str, Any]) -> None:
        self._url, self._headers = url, dict(headers)
        self._current: _PooledClient | None = None

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[AsyncInferenceClient]:
        pooled = self._current
        if pooled is None or pooled.request_count >= MAX_REQUESTS_PER_CLIENT:
            client = AsyncInferenceClient(
                base_url=self._url, timeout=READ_TIMEOUT_SECONDS, headers=self._headers
            )
            pooled = self._current = _PooledClient(client)
        pooled.request_count += 1
        pooled.in_flight += 1
        completed = False
        try:
            yield pooled.client
            completed = True
        finally:
            if not completed:
                # A stream left halfway gives its connection back only when its client is closed.
                pooled.request_count = MAX_REQUESTS_PER_CLIENT
            pooled.in_flight -= 1
            if not pooled.in_flight and pooled is not self._current:
                await pooled.client.exit_stack.aclose()

    async def close(self) -> None:
        pooled, self._current = self._current, None
        if pooled is not None:
            await pooled.client.exit_stack.aclose()
