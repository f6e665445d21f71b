"""The connection to an OpenAI-compatible server through OpenAI's own client."""

from __future__ import annotations

from typing import Any

import httpx2
import openai

from services.api.assembling.teacher.credentials import build_headers, build_query
from services.api.assembling.teacher.redirects import drop_credentials
from services.api.settings import TeacherConfig

CONNECT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 600.0
"""As OpenAI's client has it: a provider may say nothing at all while a request waits for its turn
or a model reasons."""
NO_KEY = "none"
"""The client wants a key also for servers that want none."""
OWN_ACCOUNT_HEADERS = ("OpenAI-Organization", "OpenAI-Project")
"""What the client fills from this machine's own variables."""


def make_openai_client(
    teacher: TeacherConfig, base_url: str, read_timeout: float = READ_TIMEOUT_SECONDS
) -> openai.AsyncOpenAI:
    """Without retries, which the sampler does, and without this machine's own OpenAI account.

    Connections are kept for `https` only, where a handshake costs something: llama.cpp's server
    was seen to break one that it had promised to keep when the next request came (2 of 6 chats one
    after the other, 2026-11-28), and what such a request has cost nobody knows.
    """
    headers: dict[str, Any] = dict.fromkeys(OWN_ACCOUNT_HEADERS, openai.Omit())
    kept = None if base_url.startswith("https:") else 0
    headers |= {name.title(): value for name, value in build_headers(teacher).items()}
    return openai.AsyncOpenAI(
        api_key=NO_KEY,
        base_url=base_url,
        default_headers=headers,
        default_query=build_query(teacher),
        timeout=httpx2.Timeout(read_timeout, connect=CONNECT_SECONDS),
        max_retries=0,
        # Requests in flight are limited by the sampler.
        http_client=openai.DefaultAsyncHttpx2Client(
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=kept),
            event_hooks={"request": [_drop_no_key], "response": [drop_credentials]},
        ),
    )


async def _drop_no_key(request: httpx2.Request) -> None:
    """Azure would believe it before the key in a header of its own."""
    if request.headers.get("authorization") == f"Bearer {NO_KEY}":
        del request.headers["authorization"]
