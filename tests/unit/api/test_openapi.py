"""The OpenAPI document as a client generator reads it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.unit.api.gateway_client import Here


@pytest.fixture
def document(here: Here) -> dict[str, Any]:
    return here.client.get("/openapi.json").json()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


@pytest.mark.parametrize("field", ["operationId", "summary"])
def test_no_two_operations_have_the_same_name(document: dict[str, Any], field: str) -> None:
    names = Counter(operation[field] for operation in operations(document).values())
    assert [name for name, count in names.items() if count > 1] == []


def test_operation_ids_are_the_names_that_clients_know(document: dict[str, Any]) -> None:
    """Those of OpenAI's API where it has the operation."""
    ids = {route: operation["operationId"] for route, operation in operations(document).items()}
    jobs = "/v1/fine_tuning/jobs"
    assert ids[f"POST {jobs}"] == "create_fine_tuning_job"
    assert ids[f"GET {jobs}"] == "list_fine_tuning_jobs"
    assert ids[f"GET {jobs}/{{job_id}}"] == "retrieve_fine_tuning_job"
    assert ids[f"GET {jobs}/{{job_id}}/events"] == "list_fine_tuning_job_events"
    assert ids[f"POST {jobs}/{{job_id}}/cancel"] == "cancel_fine_tuning_job"
    assert ids["POST /v1/files"] == "create_file"
    assert ids["POST /v1/chat/completions"] == "create_chat_completion"


def test_every_operation_is_under_one_described_resource(document: dict[str, Any]) -> None:
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    for route, operation in operations(document).items():
        assert len(operation["tags"]) == 1, route
        assert set(operation["tags"]) <= described, route
