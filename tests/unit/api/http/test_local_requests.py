"""A gateway without keys answers no web page that a browser on this machine has open."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from tests.unit.api.gateway_client import Here, refused, sums

HOSTS = ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "[::1]:8000"]


@pytest.mark.parametrize("host", HOSTS)
def test_programs_of_this_machine_are_served(here: Here, host: str) -> None:
    assert here.client.get("/v1/files", headers={"host": host}).status_code == 200
    own_page = {"host": host, "origin": "http://localhost:3000"}
    assert here.client.get("/v1/files", headers=own_page).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_was_made_to_resolve_to_loopback_is_refused(here: Here, host: str) -> None:
    message = refused(here.client.get("/v1/files", headers={"host": host}), 403, "not_local")
    assert "QCRD_API_KEYS" in message


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example"]
)
def test_a_form_of_another_origin_uploads_nothing(here: Here, origin: str) -> None:
    answer = here.client.post(
        "/v1/files",
        files={"file": ("a.jsonl", b'{"question": "What?", "label": "1"}')},
        data={"purpose": "fine-tune"},
        headers={"origin": origin},
    )
    refused(answer, 403, "not_local")
    assert here.client.get("/v1/files").json()["data"] == []


def test_with_keys_the_key_decides(here: Here, tmp_path_factory: pytest.TempPathFactory) -> None:
    keyed = Here(tmp_path_factory.mktemp("keyed") / "models", keys=("secret",))
    headers = {"authorization": "Bearer secret", "origin": "https://app.example"}
    client = TestClient(keyed.app, base_url="https://qcrd.example", headers=headers)
    assert client.get("/v1/files").status_code == 200
    assert here.create(here.file(sums(4))).status_code == 200
