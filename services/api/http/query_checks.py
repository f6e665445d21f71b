"""Query checks: a parameter that a route does not know is refused by name, never ignored."""

from __future__ import annotations

from fastapi import Request
from pydantic import BaseModel

from qcrd.errors import Invalid

DEEP_OBJECT = "deepObject"
"""The style of OpenAPI whose keys are in brackets: `metadata[team]=red`."""
MAX_SHOWN_CHARS = 80


async def check_query(request: Request) -> None:
    """`Invalid` for a query parameter that the request's route does not have."""
    if not request.query_params:
        return
    parameters = _list_query_parameters(request)
    for name in request.query_params:
        if not name:  # of `?&&=`
            continue
        base, bracket, rest = name.partition("[")
        style = parameters.get(base)
        is_deep = style == DEEP_OBJECT and bracket == "[" and rest.endswith("]")
        if is_deep or (name in parameters and style != DEEP_OBJECT):
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


def _list_query_parameters(request: Request) -> dict[str, str]:
    """The style of each query parameter of the request's route, by name."""
    route = request.scope["route"]
    styles: dict[str, str] = {}
    for field in route.dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):  # each field is a parameter
            styles |= {info.alias or name: "form" for name, info in kind.model_fields.items()}
        else:
            styles[field.alias] = "form"
    for described in (route.openapi_extra or {}).get("parameters", ()):
        styles[described["name"]] = described["style"]
    return styles
