"""Bodies that OpenAI's clients send, and the jobs that come of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qcrd.questions.openai_request import translate_request
from qcrd.records.job import DataSummary
from qcrd.runtime.settings import ModelSettings
from tests.unit.api.gateway_client import Here, refused, sums


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path / "models")


def chats(reasoning: str | None = None, reply: str = "fish") -> list[dict[str, Any]]:
    last = {"role": "assistant", "content": reply}
    if reasoning is not None:
        last["reasoning_content"] = reasoning
    return [{"messages": [{"role": "user", "content": f"What is {n}?"}, last]} for n in range(8)]


def create(here: Here, training: str, **body: Any) -> Any:
    body = {"model": "tiny", "training_file": training, **body}
    return here.client.post("/v1/fine_tuning/jobs", json=body)


def get_method(reply: Any) -> tuple[str, dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    method = reply.json()["method"]
    return method["type"], method[method["type"]]


SFT = "supervised"
SUPERVISED = {"type": SFT, "supervised": {"hyperparameters": {"n_epochs": 3}}}


@pytest.mark.parametrize(
    "body",
    [
        {"method": SUPERVISED},
        {"hyperparameters": {"n_epochs": 3}},
        {
            "hyperparameters": {"n_epochs": 3, "batch_size": "auto"},
            "method": {"type": "supervised"},
        },
        {
            "method": SUPERVISED,
            "integrations": [],
            "suffix": "a",
            "seed": 4,
            "metadata": {"a": "b"},
        },
        {"method": SUPERVISED, "validation_file": None, "integrations": None},
    ],
)
def test_replies_are_learned_as_labels(here: Here, body: dict[str, Any]) -> None:
    kind, settings = get_method(create(here, here.file(chats()), **body))
    assert kind == "finetune"
    assert settings["hyperparameters"]["iterations"] == 3
    assert settings["task"]["answer"] == "text"


def test_a_file_of_chats_alone_is_supervised(here: Here) -> None:
    kind, settings = get_method(create(here, here.file(chats())))
    assert (kind, settings["hyperparameters"]["iterations"]) == ("finetune", 10)
    own, _ = get_method(create(here, here.file(sums(8))))
    assert own == "qcrd"


def test_reasoning_in_the_file_is_learned_beside_the_replies(here: Here) -> None:
    """And no teacher is asked."""
    file = here.file(chats("It swims."))
    kind, settings = get_method(create(here, file, method=SUPERVISED))
    assert kind == "dss"
    assert settings["rationales"]["import"] == file


def test_long_replies_get_room(here: Here) -> None:
    file = here.file(chats(reply="word " * 300))
    _, settings = get_method(create(here, file, method=SUPERVISED))
    assert settings["hyperparameters"]["max_label_tokens"] == 500


def test_all_three_hyperparameters_are_taken(here: Here) -> None:
    given = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
    _, settings = get_method(create(here, here.file(chats()), hyperparameters=given))
    found = settings["hyperparameters"]
    assert (found["iterations"], found["batch_size"]) == (2, 4)
    assert found["learning_rate"] == pytest.approx(2.5e-5)


def test_they_go_into_a_method_of_ours_too(here: Here) -> None:
    method = {"type": "finetune", "finetune": {"task": {"answer": "number"}}}
    given = {"n_epochs": 4, "batch_size": "auto"}
    file = here.file(sums(8))
    kind, settings = get_method(create(here, file, method=method, hyperparameters=given))
    assert (kind, settings["hyperparameters"]["iterations"]) == ("finetune", 4)
    method["finetune"]["hyperparameters"] = {"iterations": 5}  # type: ignore[index]
    twice = create(here, file, method=method, hyperparameters=given)
    refused(twice, 400, "conflicting_fields", "hyperparameters")


def test_the_job_says_its_epochs_where_clients_look(here: Here) -> None:
    reply = create(here, here.file(chats()), method=SUPERVISED).json()
    assert reply["hyperparameters"]["n_epochs"] == 3


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"method": {"type": "dpo"}}, "unsupported_method", "method.type"),
        ({"method": {"type": "reinforcement"}}, "unsupported_method", "method.type"),
        (
            {"method": {"type": "supervised", "supervised": {"task": {}}}},
            "unknown_key",
            "method.supervised.task",
        ),
        ({"method": {"type": "supervised", "qcrd": {}}}, "unknown_key", "method.qcrd"),
        ({"hyperparameters": {"epochs": 1}}, "unknown_key", "hyperparameters.epochs"),
        ({"hyperparameters": {"n_epochs": 0}}, "invalid_value", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": "many"}}, "invalid_value", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": True}}, "invalid_value", "hyperparameters.batch_size"),
        (
            {"hyperparameters": {"learning_rate_multiplier": -1}},
            "invalid_value",
            "hyperparameters.learning_rate_multiplier",
        ),
        ({"hyperparameters": 3}, "invalid_value", "hyperparameters"),
        ({"integrations": [{"type": "comet"}]}, "invalid_value", "integrations.0.type"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(
    here: Here, body: dict[str, Any], code: str, param: str
) -> None:
    refused(create(here, here.file(chats()), **body), 400, code, param)


def test_an_alias_says_the_base(here: Here) -> None:
    body = {"model": "gpt-4o-mini-2024-07-18", "training_file": here.file(chats())}
    aliases = {"gpt-4o-mini-2024-07-18": "tiny"}
    assert translate_request(body, lambda _: DataSummary(), aliases)["model"] == "tiny"
    refused(here.client.post("/v1/fine_tuning/jobs", json=body), 400, "model_not_found", "model")


def test_aliases_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCRD_MODEL_ALIASES", '{"gpt-4o-mini": "google/flan-t5-small"}')
    assert ModelSettings().model_aliases == {"gpt-4o-mini": "google/flan-t5-small"}
