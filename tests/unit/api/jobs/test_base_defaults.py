"""What a job does not name: rates and answers by whether its base has a decoder, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from qcrd.method.student.loading import _is_encoder_only
from qcrd.records.base_models import ENCODER_MODEL_TYPES, gets_new_decoder
from tests.unit.api.gateway_client import Here, sums

RATES = ("learning_rate", "encoder_learning_rate", "warmup_steps")
BERT = {"model_type": "bert", "architectures": ["BertModel"]}


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path / "models")


def create(here: Here, config: dict[str, Any], **body: Any) -> tuple[list[Any], list[str]]:
    """The rates of the job, and what is said of it."""
    (here.models / "tiny/config.json").write_text(json.dumps(config))
    training = here.file(sums(12))
    given = {"model": "tiny", "training_file": training, **body}
    made = here.client.post("/v1/fine_tuning/jobs", json=given)
    assert made.status_code == 200, made.text
    job = made.json()
    found = job["method"][job["method"]["type"]]["hyperparameters"]
    events = here.client.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
    return [found[name] for name in RATES], [event["message"] for event in events]


@pytest.mark.parametrize(
    ("config", "hyperparameters", "expected"),
    [
        (BERT, {}, [1e-3, 1e-4, 5]),
        (BERT, {"warmup_steps": 0}, [1e-3, 1e-4, 0]),
        (BERT, {"learning_rate": 5e-5}, [5e-5, None, 0]),
        ({**BERT, "architectures": ["BertLMHeadModel"]}, {}, [5e-5, None, 0]),
        ({"model_type": "t5"}, {}, [5e-5, None, 0]),
        ({}, {}, [5e-5, None, 0]),
    ],
)
def test_a_new_decoder_gets_its_own_rates(
    here: Here, config: dict[str, Any], hyperparameters: dict[str, Any], expected: list[Any]
) -> None:
    task = {"answer": "number"}
    method = {"type": "qcrd", "qcrd": {"task": task, "hyperparameters": hyperparameters}}
    rates, told = create(here, config, method=method)
    assert rates == expected
    said = [each for each in told if "has no decoder of its own" in each]
    assert bool(said) == (expected[0] == 1e-3)
    assert all("learns at 0.001, the encoder at 0.0001" in each for each in said)


@pytest.mark.parametrize(
    ("config", "method", "student", "expected"),
    [
        ({"model_type": "t5"}, "qcrd", {}, ("reasoned", "auto")),
        ({"model_type": "llama"}, "dss", {}, ("reasoned", "auto")),
        ({"model_type": "llama"}, "qcrd", {"answers": "both"}, ("both", "auto")),
        ({"model_type": "llama"}, "qcrd", {"prompt": "plain"}, ("reasoned", "plain")),
        ({"model_type": "llama"}, "finetune", {}, ("label", "auto")),
        (BERT, "qcrd", {}, ("label", "plain")),
        ({}, "qcrd", {}, ("label", "auto")),  # nothing is known of it
    ],
)
def test_a_pretrained_decoder_reasons_before_it_answers(
    here: Here,
    config: dict[str, Any],
    method: str,
    student: dict[str, str],
    expected: tuple[str, str],
) -> None:
    body = {"type": method, method: {"task": {"answer": "number"}, "student": student}}
    _, told = create(here, config, method=body)
    job = here.client.get("/v1/fine_tuning/jobs").json()["data"][0]
    found = job["method"][method]["student"]
    assert (found["answers"], found["prompt"]) == expected
    said = [each for each in told if "gives its rationale first" in each]
    assert bool(said) == (expected[0] == "reasoned")


def test_a_decoder_s_job_may_ask_for_votes_without_naming_how_it_answers(here: Here) -> None:
    """It reasons first by its base; a new decoder, which does not, has nothing to vote on."""
    task = {"answer": "number"}
    method = {"type": "qcrd", "qcrd": {"task": task, "evaluation": {"samples": 4}}}
    create(here, {"model_type": "llama"}, method=method)
    (here.models / "tiny/config.json").write_text(json.dumps(BERT))
    body = {"model": "tiny", "training_file": here.file(sums(12)), "method": method}
    refused = here.client.post("/v1/fine_tuning/jobs", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "method.qcrd.evaluation.samples"


def test_the_papers_students_answer_apart(here: Here) -> None:
    body = {"type": "qcrd", "qcrd": {"task": {"answer": "number"}, "preset": "paper"}}
    create(here, {"model_type": "t5"}, method=body)
    job = here.client.get("/v1/fine_tuning/jobs").json()["data"][0]
    found = job["method"]["qcrd"]["student"]
    assert (found["answers"], found["prompt"]) == ("label", "plain")


def test_openais_jobs_get_them_too(here: Here) -> None:
    assert create(here, BERT, method={"type": "supervised"})[0] == [1e-3, 1e-4, 5]
    doubled = {"learning_rate_multiplier": 2, "n_epochs": "auto"}
    assert create(here, BERT, hyperparameters=doubled)[0] == [2e-3, 2e-4, 5]
    assert create(here, {"model_type": "t5"}, hyperparameters=doubled)[0] == [1e-4, None, 0]


def test_a_study_has_them_for_all_its_jobs(here: Here) -> None:
    (here.models / "tiny/config.json").write_text(json.dumps(BERT))
    job = {
        "model": "tiny",
        "training_file": here.file(sums(12)),
        "test_file": here.file(sums(3, start=50)),
        "method": {"type": "qcrd", "qcrd": {"task": {"answer": "number"}}},
    }
    body = {"job": job, "methods": ["finetune", "dss"], "baseline": "finetune"}
    made = here.client.post("/v1/studies", json=body)
    assert made.status_code == 200, made.text
    listed = here.client.get("/v1/fine_tuning/jobs").json()["data"]
    rates = [each["method"][each["method"]["type"]]["hyperparameters"] for each in listed]
    assert [each["learning_rate"] for each in rates] == [1e-3, 1e-3]


@pytest.mark.parametrize("model_type", sorted(ENCODER_MODEL_TYPES))
def test_the_gateway_and_the_trainer_agree_on_encoders(model_type: str) -> None:
    assert model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    config = AutoConfig.for_model(model_type)
    assert not config.is_encoder_decoder
    assert _is_encoder_only(config) is gets_new_decoder({"model_type": model_type})


@pytest.mark.parametrize(
    ("config", "method", "student", "param"),
    [
        (BERT, "qcrd", {"prompt": "chat"}, "student.prompt"),
        (
            {"model_type": "t5", "is_encoder_decoder": True},
            "dss",
            {"prompt": "chat"},
            "student.prompt",
        ),
        ({"model_type": "llama"}, "finetune", {"answers": "reasoned"}, "student.answers"),
    ],
)
def test_what_a_base_or_a_method_cannot_do_is_refused_before_anything_is_paid(
    here: Here, config: dict[str, Any], method: str, student: dict[str, str], param: str
) -> None:
    (here.models / "tiny/config.json").write_text(json.dumps(config))
    body = {"type": method, method: {"task": {"answer": "number"}, "student": student}}
    given = {"model": "tiny", "training_file": here.file(sums(12)), "method": body}
    refused = here.client.post("/v1/fine_tuning/jobs", json=given)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == f"method.{method}.{param}"
    assert "leave it out" in refused.json()["error"]["message"]
