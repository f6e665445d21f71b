"""The server against its own OpenAPI document: whatever fits it, or does not, never breaks it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.contract.teacher.test_wire import Scripted, serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(Scripted()) as address:
        yield address


def test_nothing_that_fits_the_document_or_does_not_is_a_server_error(url: str) -> None:
    document = schemathesis.openapi.from_url(f"{url}/api-doc/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert {"POST /generate", "POST /v1/chat/completions"} <= {o.label for o in operations}
    seen: Counter[int] = Counter()
    for operation in operations:
        fits = operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
        cases = fits
        if operation.body:
            does_not = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
            cases = st.one_of(fits, does_not)

        @settings(
            max_examples=25,
            phases=[Phase.generate],
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def call(case: schemathesis.Case) -> None:
            reply = case.call(base_url=url)
            seen[reply.status_code] += 1
            assert reply.status_code < 500, (case.as_curl_command(), reply.text)
            if reply.status_code >= 400:
                assert {"error", "error_type"} <= reply.json().keys()

        call()
    assert seen[200] > 30
    assert seen[422] > 20
    assert httpx2.get(f"{url}/health").status_code == 200


def test_streams_are_documented_as_event_streams(url: str) -> None:
    paths = httpx2.get(f"{url}/api-doc/openapi.json").json()["paths"]
    types = {
        path: list(paths[path]["post"]["responses"]["200"]["content"])
        for path in ("/generate", "/generate_stream", "/", "/v1/completions", "/invocations")
    }
    both = ["application/json", "text/event-stream"]
    assert types == {
        "/generate": ["application/json"],
        "/generate_stream": ["text/event-stream"],
        "/": both,
        "/v1/completions": both,
        "/invocations": both,
    }


def test_choices_and_grammars_are_documented_where_they_are_taken(url: str) -> None:
    paths = httpx2.get(f"{url}/api-doc/openapi.json").json()["paths"]

    def described(path: str) -> set[str]:
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        return {name for name, each in schema["properties"].items() if "description" in each}

    own = {"n", "grammar", "best_of", "echo", "logprobs"}
    assert described("/v1/completions") == own
    assert described("/v1/chat/completions") == {"n"}
    assert not described("/generate")
