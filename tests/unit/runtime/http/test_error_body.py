"""What is read of an error's body, whichever server wrote it."""

from __future__ import annotations

import json

import pytest

from qcrd.runtime.http.error_body import ErrorBody, build_error_body, parse_error_body


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            build_error_body("`n`: too many", type="x", param="n", code="invalid_value"),
            ErrorBody("`n`: too many", "n", "invalid_value"),
        ),
        ({"error": {"message": "no such key", "param": None}}, ErrorBody("no such key")),
        (
            {"error": "Model is overloaded", "error_type": "overloaded"},
            ErrorBody("Model is overloaded", None, "overloaded"),
        ),
        ({"error": "busy"}, ErrorBody("busy")),
        ({"error": {"param": "n"}}, ErrorBody()),
        ({"error": None}, ErrorBody()),
        (["error"], ErrorBody()),
    ],
)
def test_ours_and_tgis_bodies_are_read(body: object, expected: ErrorBody) -> None:
    assert parse_error_body(json.dumps(body).encode()) == expected


@pytest.mark.parametrize("page", [b"", b"<html>502 Bad Gateway</html>", b"\xff\xfe"])
def test_a_proxys_page_says_nothing(page: bytes) -> None:
    assert parse_error_body(page) == ErrorBody()
