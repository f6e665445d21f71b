"""The gateway that a command speaks to."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Annotated

import typer

from qcrd.cli.settings import CliSettings
from qcrd.cli.stack import lifecycle as stack
from qcrd.cli.stack.home import StackHome
from qcrd.client.gateway import DEFAULT_INTERVALS, DEFAULT_URL, GatewayClient
from qcrd.errors import Invalid
from qcrd.runtime.settings import load_settings

ApiOption = Annotated[
    str | None,
    typer.Option("--api", help="Address of the gateway. (default: $QCRD_API_URL, or what is up)"),
]
INTERVALS = ContextVar("INTERVALS", default=DEFAULT_INTERVALS)
"""Those of the commands that run in this context."""


def connect_gateway(api: str | None) -> GatewayClient:
    """Use `--api`, else QCRD_API_URL, else the running embedded stack, else the default port."""
    settings = load_settings(CliSettings)
    running = None if api or settings.api_url else stack.find_stack(StackHome(settings.home))
    url = api or settings.api_url or (running.record.api_url if running else DEFAULT_URL)
    if not url.startswith(("http://", "https://")):
        raise Invalid(f"--api: {url!r} is not an address: it starts with http:// or https://")
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return GatewayClient(url, key, INTERVALS.get())
