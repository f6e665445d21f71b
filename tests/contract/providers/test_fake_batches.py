"""The server that imitates OpenAI's batches, asked by OpenAI's own client."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.fakes.batches import Ending, FakeBatches, validate_lines
from tests.fakes.providers import PROMPT_TOKENS, make_error

ENDPOINT = "/v1/chat/completions"


@pytest.fixture
def provider() -> Iterator[FakeBatches]:
    made = FakeBatches(lambda prompt, number: f"{prompt} two {number}")
    yield made
    made.close()


@pytest.fixture
def client(provider: FakeBatches) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url=provider.url, max_retries=0) as made:
        yield made


def line(number: int, **changes: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": f"q{number}"}]}
    return {
        "custom_id": f"r{number}",
        "method": "POST",
        "url": ENDPOINT,
        "body": {**body, **changes.pop("body", {})},
        **changes,
    }


def dump(*lines: dict[str, Any]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in lines).encode()


def create(client: openai.OpenAI, *lines: dict[str, Any]) -> Any:
    file = client.files.create(file=("x.jsonl", io.BytesIO(dump(*lines))), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint=ENDPOINT,
        completion_window="24h",
        metadata={"name": "mine"},
    )


def end(client: openai.OpenAI, batch: Any) -> tuple[Any, list[str]]:
    """The batch as it ends, and the states that it comes through."""
    states = [batch.status]
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        batch = client.batches.retrieve(batch.id)
        states.append(batch.status)
    return batch, states


def read(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(each) for each in client.files.content(file_id).text.splitlines()]


def test_a_batch_goes_through_its_states(client: openai.OpenAI, provider: FakeBatches) -> None:
    batch, states = end(client, create(client, line(0), line(1, body={"n": 2})))
    assert states == ["validating", "in_progress", "finalizing", "completed"]
    assert (batch.request_counts.completed, batch.request_counts.total) == (2, 2)
    assert batch.metadata == {"name": "mine"}
    assert batch.error_file_id is None
    second, first = read(client, batch.output_file_id)
    assert [first["custom_id"], second["custom_id"]] == ["r0", "r1"]
    assert len(second["response"]["body"]["choices"]) == 2
    usage = second["response"]["body"]["usage"]
    assert usage["prompt_tokens"] == PROMPT_TOKENS
    assert usage["completion_tokens"] == 6
    assert provider.prompt_tokens == 2 * PROMPT_TOKENS
    assert provider.completion_tokens == 9


def test_nothing_runs_twice(client: openai.OpenAI, provider: FakeBatches) -> None:
    batch, _ = end(client, create(client, line(0)))
    for _ in range(3):
        client.batches.retrieve(batch.id)
    assert provider.ran == {"r0": 1}


def test_an_expired_batch_has_what_was_done_and_names_the_rest(
    client: openai.OpenAI, provider: FakeBatches
) -> None:
    provider.end = lambda batch: Ending("expired", done=1)
    batch, states = end(client, create(client, line(0), line(1)))
    assert states[-1] == "expired"
    assert [each["custom_id"] for each in read(client, batch.output_file_id)] == ["r0"]
    (rest,) = read(client, batch.error_file_id)
    assert (rest["custom_id"], rest["response"]) == ("r1", None)
    assert rest["error"]["code"] == "batch_expired"
    assert provider.prompt_tokens == PROMPT_TOKENS


def test_a_refused_line_is_in_the_error_file(client: openai.OpenAI, provider: FakeBatches) -> None:
    provider.refuse = lambda body: (400, make_error("no")) if "seed" in body else None
    batch, _ = end(client, create(client, line(0, body={"seed": 1}), line(1)))
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    (refused,) = read(client, batch.error_file_id)
    assert refused["response"]["status_code"] == 400
    assert refused["response"]["body"]["error"]["message"] == "no"


def test_a_cancelled_batch_has_what_was_done(client: openai.OpenAI, provider: FakeBatches) -> None:
    provider.end = lambda batch: Ending(done=1)
    batch = create(client, line(0), line(1))
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch, _ = end(client, batch)
    assert batch.status == "cancelled"
    assert len(read(client, batch.output_file_id)) == 1
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_a_file_that_is_wrong_fails_validation(client: openai.OpenAI) -> None:
    batch, states = end(client, create(client, line(0), line(0)))
    assert states == ["validating", "failed"]
    assert [error.code for error in batch.errors.data] == ["duplicate_custom_id"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{\n", "invalid_json_line"),
        (b"", "empty_file"),
        (dump(line(0, url="/v1/completions")), "url_mismatch"),
        (dump(line(0), line(1, body={"model": "other"})), "model_mismatch"),
    ],
)
def test_what_validation_says(content: bytes, code: str) -> None:
    _, errors = validate_lines(content, ENDPOINT)
    assert code in [error["code"] for error in errors]


def test_more_requests_than_a_batch_may_have() -> None:
    content = dump(*(line(number) for number in range(50_001)))
    _, (error,) = validate_lines(content, ENDPOINT)
    assert error["code"] == "too_many_tasks"


def test_lists_are_in_pages_with_the_newest_first(client: openai.OpenAI) -> None:
    made = [create(client, line(0)).id for _ in range(5)]
    page = client.batches.list(limit=2)
    assert [each.id for each in page.data] == made[:2:-1]
    assert page.has_more
    assert [each.id for each in client.batches.list(limit=2)] == made[::-1]


def test_a_lost_answer_has_made_its_batch(client: openai.OpenAI, provider: FakeBatches) -> None:
    provider.answers_lost = 1
    with pytest.raises(openai.APIStatusError):
        create(client, line(0))
    assert [each.id for each in client.batches.list()] == ["batch_1"]


def test_files_can_be_deleted(client: openai.OpenAI) -> None:
    file = client.files.create(file=("x.jsonl", io.BytesIO(dump(line(0)))), purpose="batch")
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=("x.txt", io.BytesIO(b"")), purpose="batch")
