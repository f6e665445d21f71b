"""Redirects of a teacher's server, followed without what only that server may read."""

from __future__ import annotations

import httpx2

KEPT_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
        "user-agent",
    }
)


async def drop_credentials(response: httpx2.Response) -> None:
    """A response hook. The client itself drops `authorization` on the way to another server, and
    hands on headers such as Azure's `api-key`."""
    if not response.has_redirect_location:
        return
    target = response.url.join(response.headers["location"])
    if (target.host, target.port) == (response.url.host, response.url.port):
        return
    headers = response.request.headers
    for name in [name for name in headers if name.lower() not in KEPT_HEADERS]:
        del headers[name]
