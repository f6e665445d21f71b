"""Query checks: a parameter that a route does not know is refused by name, never ignored."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from qcrd.errors import Invalid

MAX_SHOWN_CHARS = 80


async def check_query(request: Request) -> None:
    """`Invalid` for a query parameter that the route's description does not have. One of style
    `deepObject` has its keys in brackets: `metadata[team]=red`."""
    if not request.query_params:
        return
    parameters = _list_query_parameters(request)
    for name in request.query_params:
        if not name:  # of `?&&=`
            continue
        base, bracket, rest = name.partition("[")
        style = parameters.get(base, {}).get("style")
        is_deep = style == "deepObject" and bracket == "[" and rest.endswith("]")
        if is_deep or (name in parameters and style != "deepObject"):
            continue
        known = ", ".join(f"`{known}`" for known in parameters) or "none"
        shown = name[:MAX_SHOWN_CHARS]
        raise Invalid(
            f"unknown query parameter `{shown}`: this route has {known}",
            param=shown,
            code="unknown_parameter",
        )


def read_deep_object(request: Request, name: str) -> dict[str, str]:
    """The pairs of a `deepObject` parameter: `{"team": "red"}` of `metadata[team]=red`."""
    prefix = f"{name}["
    return {
        key.removeprefix(prefix).removesuffix("]"): value
        for key, value in request.query_params.items()
        if key.startswith(prefix)
    }


def _list_query_parameters(request: Request) -> dict[str, dict[str, Any]]:
    paths = request.app.openapi()["paths"]
    operation = paths.get(request.scope["route"].path, {}).get(request.method.lower(), {})
    return {
        parameter["name"]: parameter
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    }
