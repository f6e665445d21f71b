"""The gateway's answers, with everything behind it in memory."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from qcrd.records.job import JobStatus, Stage
from qcrd.runtime import keys
from qcrd.runtime.jobs.finalize import finalize
from services.api.jobs.checks.unsupported_models import UNSUPPORTED_MODEL_TYPES
from services.api.settings import ApiSettings, TeacherSettings
from tests.bare_base import save_bare_base
from tests.unit.api.gateway_client import ABSENT, TASK, Here, lines, published, refused, sums

pytestmark = pytest.mark.usefixtures("without_a_hub")

# --- files -------------------------------------------------------------------------------------


def test_a_file_is_described_listed_read_back_and_deleted(here: Here) -> None:
    data = lines(sums(3))
    stored = here.upload(data, name="C:\\data\\train.jsonl").json()
    assert (stored["object"], stored["status"], stored["lines"]) == ("file", "processed", 3)
    assert (stored["filename"], stored["bytes"]) == ("train.jsonl", len(data))
    assert here.client.get(f"/v1/files/{stored['id']}").json() == stored
    assert here.client.get("/v1/files").json()["data"] == [stored]
    assert here.client.get(f"/v1/files/{stored['id']}/content").content == data
    assert here.client.delete(f"/v1/files/{stored['id']}").json()["deleted"] is True
    refused(here.client.get(f"/v1/files/{stored['id']}"), 404, "file_not_found", "file_id")


def test_the_same_content_is_the_same_file(here: Here) -> None:
    assert here.file(sums(3)) == here.file(sums(3))
    assert len(here.client.get("/v1/files").json()["data"]) == 1


def test_files_are_listed_in_pages(here: Here) -> None:
    made = [here.file(sums(2, start=10 * i)) for i in range(3)]
    first = here.client.get("/v1/files?limit=2").json()
    assert [f["id"] for f in first["data"]] == made[:0:-1]
    assert first["has_more"] is True
    rest = here.client.get(f"/v1/files?limit=2&after={first['last_id']}").json()
    assert [f["id"] for f in rest["data"]] == made[:1]
    assert rest["has_more"] is False


@pytest.mark.parametrize(
    ("data", "code", "told"),
    [
        (b"", "empty_file", "the file is empty"),
        (b'{"question": "a"}\n{"question"', "broken_json", "line 2: broken JSON"),
        (
            b'{"question": "a"}\n\n{"question": "a", "label": "b"}',
            "duplicate_question",
            "as line 1",
        ),
        ("{'question': 'ä'}".encode("latin-1"), "not_utf8", "line 1: not UTF-8"),
    ],
)
def test_a_bad_file_is_refused_and_not_kept(here: Here, data: bytes, code: str, told: str) -> None:
    assert told in refused(here.upload(data), 400, code, "file")
    assert here.store.list("") == []


def test_other_purposes_are_refused(here: Here) -> None:
    refused(here.upload(lines(sums(2)), purpose="batch"), 400, "invalid_value", "purpose")


def test_a_missing_form_field_is_named(here: Here) -> None:
    answer = here.client.post("/v1/files", files={"file": ("a", lines(sums(2)))})
    refused(answer, 400, "invalid_value", "purpose")
    assert here.store.list("") == []
    answer = here.client.post("/v1/files", files={"purpose": (None, "fine-tune")})
    refused(answer, 400, "invalid_value", "file")


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    here = Here(tmp_path / "models", file_bytes=1000)
    assert "1000" in refused(here.upload(b" " * 1001), 413, "too_large", "file")
    assert "1000" in refused(here.upload(b" " * 200_000), 413, "too_large")


def test_a_body_that_hides_its_length_is_cut_off_at_the_limit(tmp_path: Path) -> None:
    here = Here(tmp_path / "models", file_bytes=1000)
    boundary = b"--b\r\ncontent-disposition: form-data; name=file; filename=f\r\n\r\n"
    pieces = iter([boundary, *[b"x" * 10_000] * 50])
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = here.client.post("/v1/files", content=pieces, headers=headers)
    refused(answer, 413, "too_large")


def test_a_file_that_a_job_needs_is_not_deleted(here: Here) -> None:
    training = here.file(sums(4))
    job = here.create(training).json()
    assert job["id"] in refused(here.client.delete(f"/v1/files/{training}"), 409, "conflict")
    here.client.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")
    assert here.client.delete(f"/v1/files/{training}").status_code == 200


def test_ids_are_checked_before_they_become_keys(here: Here) -> None:
    refused(here.client.get("/v1/files/..%2Fjobs"), 404, "unknown_url")
    refused(here.client.get("/v1/files/meta.json"), 404, "file_not_found", "file_id")


# --- jobs --------------------------------------------------------------------------------------


def test_a_created_job_is_queued_sent_and_shown(here: Here) -> None:
    training, test = here.file(sums(4)), here.file(sums(2, start=50))
    job = here.create(training, test_file=test, seed=None, metadata={"run": "1"}).json()
    assert (job["object"], job["status"], job["stage"]) == ("fine_tuning.job", "queued", None)
    assert (job["training_file"], job["test_file"], job["seed"]) == (training, test, 0)
    assert job["method"]["type"] == "qcrd"
    assert job["method"]["qcrd"]["rationales"]["n"] == 5
    assert "import" in job["method"]["qcrd"]["rationales"]
    assert here.queue.drain() == [(Stage.ASSEMBLING, job["id"])]
    assert here.client.get(f"/v1/fine_tuning/jobs/{job['id']}").json() == job
    assert keys.job_spec_key(job["id"]) in here.store.list("jobs/")


def test_jobs_are_listed_newest_first_in_pages(here: Here) -> None:
    training = here.file(sums(4))
    made = [here.create(training).json()["id"] for _ in range(3)]
    first = here.client.get("/v1/fine_tuning/jobs?limit=2").json()
    assert ([j["id"] for j in first["data"]], first["has_more"]) == (made[:0:-1], True)
    rest = here.client.get(f"/v1/fine_tuning/jobs?after={first['last_id']}").json()
    assert ([j["id"] for j in rest["data"]], rest["has_more"]) == (made[:1], False)
    refused(here.client.get("/v1/fine_tuning/jobs?limit=0"), 400, "invalid_value", "limit")
    refused(here.client.get("/v1/fine_tuning/jobs?after=x"), 400, "invalid_id", "after")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"rationales": {"n": 0}}, "invalid_value", "method.qcrd.rationales.n"),
        (
            {"rationales": {"temperature": -1}},
            "invalid_value",
            "method.qcrd.rationales.temperature",
        ),
        ({"rationale": {}}, "unknown_key", "method.qcrd.rationale"),
        ({"loss": {"detla": 3}}, "unknown_key", "method.qcrd.loss.detla"),
        ({"loss": {"scheme": "nonsense"}}, "invalid_value", "method.qcrd.loss.scheme"),
        ({"negatives": {"source": "none"}}, "invalid_value", "method.qcrd.negatives.source.0"),
        (
            {"negatives": {"lag": 10}, "hyperparameters": {"iteration_steps": 9}},
            "lag_not_reached",
            "method.qcrd.negatives.lag",
        ),
        ({"teacher": "gpt"}, "unknown_teacher", "method.qcrd.teacher"),
        (
            {"discriminator": {"encoder": "brt"}},
            "model_not_found",
            "method.qcrd.discriminator.encoder",
        ),
        ({"rationales": {"import": ABSENT}}, "file_not_found", "method.qcrd.rationales.import"),
        (
            {"label_mode": "llm", "rationales": {"positive_rule": "gold"}},
            "invalid_value",
            "method.qcrd.rationales.positive_rule",
        ),
        ({"evaluation": {"samples": 1}}, "invalid_value", "method.qcrd.evaluation"),
        ({"evaluation": {"judge": True}}, "invalid_value", "method.qcrd.evaluation"),
        (
            {"evaluation": {"samples": 4}, "student": {"answers": "label"}},
            "invalid_value",
            "method.qcrd.evaluation.samples",
        ),
        (
            {"evaluation": {"fallback": {"agreement": 0.9, "teacher": "gpt"}}},
            "unknown_teacher",
            "method.qcrd.evaluation.fallback.teacher",
        ),
        (
            {"evaluation": {"fallback": {"agreement": 1.5}}},
            "invalid_value",
            "method.qcrd.evaluation.fallback.agreement",
        ),
    ],
)
def test_a_wrong_method_is_refused_by_path(
    here: Here, body: dict[str, Any], code: str, param: str
) -> None:
    assert param in refused(here.create(here.file(sums(4)), body), 400, code, param)
    assert here.queue.drain() == []


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("dss+positives", {"loss": {"contrast": "dpo"}}, "loss.contrast"),
        ("dss", {"discriminator": {"control": "gold"}}, "discriminator.control"),
    ],
)
def test_a_field_that_no_method_reads_is_refused(
    here: Here, kind: str, body: dict[str, Any], field: str
) -> None:
    method = {"type": kind, kind: {**TASK, **body}}
    path = f"method.{kind}.{field}"
    refused(here.create(here.file(sums(4)), method=method), 400, "unread_field", path)


def test_a_lag_that_no_iteration_reaches_is_refused_with_both_fields(here: Here) -> None:
    training = here.file(sums(4))
    short = {"hyperparameters": {"iterations": 5, "iteration_steps": 2}}
    message = refused(here.create(training, short), 400, "lag_not_reached", LAG)
    assert "`method.qcrd.negatives.lag` is 5" in message
    assert "`method.qcrd.hyperparameters.iterations` is only 5" in message
    assert "at most 3" in message
    one = {"hyperparameters": {"iterations": 1, "iteration_steps": 2}, "negatives": {"lag": 1}}
    message = refused(here.create(training, one), 400, "lag_not_reached", LAG)
    assert "at most" not in message
    assert "at least 3" in message


@pytest.mark.parametrize(
    "body",
    [
        {"hyperparameters": {"iterations": 6}},
        {"hyperparameters": {"iterations": 5}, "negatives": {"lag": 4}},
        {"hyperparameters": {"iterations": 1}, "negatives": {"source": "fixed"}},
        {"hyperparameters": {"iterations": 1}, "negatives": {"source": "teacher_minority"}},
    ],
)
def test_a_lag_within_reach_or_without_use_is_none_to_refuse(
    here: Here, body: dict[str, Any]
) -> None:
    assert here.create(here.file(sums(4)), body).status_code == 200


def test_a_lag_matters_where_some_row_samples_negatives(here: Here) -> None:
    training = here.file(sums(4))
    body = {**TASK, "hyperparameters": {"iterations": 2, "iteration_steps": 9}}

    def create(**more: Any) -> Any:
        method = {"type": "dss", "dss": {**body, **more}}
        return here.create(training, method=method)

    assert create().status_code == 200
    assert create(baselines=["finetune", "dss+positives"]).status_code == 200
    for row in ("qcrd", "dss+positives+negatives"):
        refused(create(baselines=[row]), 400, "lag_not_reached", "method.dss.negatives.lag")


LAG = "method.qcrd.negatives.lag"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "vit model (ViTModel), which reads"),
        ({"model_type": "wav2vec2"}, "wav2vec2 model, which reads or makes sound"),
        (
            {"model_type": "layoutlmv3", "architectures": ["LayoutLMv3ForSequenceClassification"]},
            "only classifies",
        ),
    ],
)
def test_a_base_without_a_language_model_head_is_refused(
    here: Here, tmp_path: Path, config: dict[str, Any], told: str
) -> None:
    training = here.file(sums(4))
    write_config(tmp_path, json.dumps(config))
    message = refused(here.create(training, model="other"), 400, "no_language_model_head", "model")
    assert told in message
    assert "take a seq2seq, decoder-only or BERT-like base" in message
    # As the judge's encoder it is another question, which the discriminator answers.
    assert here.create(training, {"discriminator": {"encoder": "other"}}).status_code == 200


def test_a_base_whose_loss_was_not_found_exact_is_refused_with_the_reason(
    here: Here, tmp_path: Path
) -> None:
    training = here.file(sums(4))
    write_config(tmp_path, json.dumps({"model_type": "xlnet"}))
    message = refused(here.create(training, model="other"), 400, "inexact_student", "model")
    assert "another than that of one sequence per pair" in message


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        ({"model_type": "falcon", "alibi": True}, "`alibi: true`"),
        (
            {"model_type": "gemma3_text", "use_bidirectional_attention": True},
            "`use_bidirectional_attention`",
        ),
    ],
)
def test_a_base_that_one_setting_makes_inexact_is_refused_by_its_name(
    here: Here, tmp_path: Path, config: dict[str, Any], setting: str
) -> None:
    training = here.file(sums(4))
    write_config(tmp_path, json.dumps(config))
    message = refused(here.create(training, model="other"), 400, "inexact_student", "model")
    assert setting in message


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
        {"model_type": "t5"},
        {"model_type": "llama"},
        {"model_type": "made-tomorrow"},
        {"model_type": 7},
        {},
    ],
)
def test_every_other_base_is_left_to_the_trainer(here: Here, tmp_path: Path, config: Any) -> None:
    write_config(tmp_path, json.dumps(config))
    assert here.create(here.file(sums(4)), model="other").status_code == 200


@pytest.mark.parametrize("text", ['{"model_type":', "[]"])
def test_a_base_whose_config_is_broken_is_refused(here: Here, tmp_path: Path, text: str) -> None:
    write_config(tmp_path, text)
    refused(here.create(here.file(sums(4)), model="other"), 400, "unusable_model", "model")


def write_config(folder: Path, text: str) -> None:
    save_bare_base(folder / "models/other", text)


def test_what_is_refused_has_no_head_in_transformers_either() -> None:
    """A student is loaded by one of three maps; nothing that one of them knows is refused."""
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto as auto

    for kind in UNSUPPORTED_MODEL_TYPES:
        assert kind not in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        assert kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:  # its encoder-decoder form is loaded
            assert AutoConfig.for_model(kind).is_encoder_decoder


def test_wrong_top_level_fields_are_refused_by_name(here: Here) -> None:
    training = here.file(sums(4))
    tracker = {"type": "wandb", "wandb": {"project": "p", "name": None, "tags": ["a"]}}
    tracked = here.create(training, integrations=[tracker]).json()
    assert tracked["integrations"] == [{**tracker, "wandb": {**tracker["wandb"], "entity": None}}]
    twice = here.create(training, integrations=[tracker, tracker])
    refused(twice, 400, "invalid_value", "integrations")
    refused(here.create(training, integration=[]), 400, "unknown_key", "integration")
    refused(here.create(ABSENT), 400, "file_not_found", "training_file")
    refused(here.create("../x"), 400, "file_not_found", "training_file")
    message = refused(here.create(training, model="tyni"), 400, "model_not_found", "model")
    assert "In the models folder: tiny; the hub cannot be reached" in message
    refused(here.create(training, model="../tiny"), 400, "invalid_value", "model")
    refused(here.create(training, test_file=training), 400, "same_file", "test_file")
    answer = here.client.post("/v1/fine_tuning/jobs", json={"model": "tiny"})
    refused(answer, 400, "invalid_value", "training_file")
    answer = here.client.post("/v1/fine_tuning/jobs", content=b"{", headers=JSON)
    refused(answer, 400, "broken_json")
    refused(here.client.post("/v1/fine_tuning/jobs", json=[1]), 400, "invalid_value")


JSON = {"content-type": "application/json"}


def test_labels_are_checked_against_the_task(here: Here) -> None:
    rows = sums(4)
    del rows[2]["label"]
    message = refused(here.create(here.file(rows)), 400, "missing_label", "training_file")
    assert message.startswith("line 3: ")
    assert here.create(here.file(rows), {"label_mode": "llm"}).status_code == 200
    rows[2]["label"] = "many"
    message = refused(here.create(here.file(rows)), 400, "invalid_label", "training_file")
    assert "line 3: label 'many' is not a number" in message
    labels = {"task": {"answer": "label", "labels": ["yes", "no"]}}
    message = refused(
        here.create(here.file(sums(4)), labels), 400, "invalid_label", "training_file"
    )
    assert "'yes', 'no'" in message
    choices = {"task": {"answer": "choice"}}
    refused(here.create(here.file(sums(4)), choices), 400, "missing_choices", "training_file")
    test = here.file([{"question": "Unlabelled?"}])
    answer = here.create(here.file(sums(4)), test_file=test)
    refused(answer, 400, "missing_label", "test_file")


def test_a_training_file_must_be_large_enough_to_split(here: Here) -> None:
    refused(here.create(here.file(sums(2))), 400, "too_few_questions", "training_file")
    assert here.create(here.file(sums(3))).status_code == 200
    own = here.file(sums(2, start=9))
    assert here.create(here.file(sums(2)), validation_file=own).status_code == 200


def test_an_import_must_answer_the_questions(here: Here) -> None:
    param = "method.qcrd.rationales.import"
    training, other = here.file(sums(4)), here.file(sums(4, start=50))
    answered = here.file([{**row, "teacher_output": "x"} for row in sums(4, start=80)])
    answer = here.create(training, {"rationales": {"import": other}})
    refused(answer, 400, "no_outputs", param)
    answer = here.create(training, {"rationales": {"import": answered}})
    refused(answer, 400, "no_match", param)


def test_without_a_models_folder_the_trainer_decides(here: Here, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "models")
    assert here.create(here.file(sums(4)), model="google/flan-t5-small").status_code == 200


def test_a_published_student_may_be_the_base(here: Here) -> None:
    training, model = here.file(sums(4)), published(here.store)
    assert here.create(training, model=model.id).status_code == 200
    refused(here.create(training, model=f"model-{'0' * 24}"), 400, "model_not_found", "model")


def test_cancel_is_final(here: Here) -> None:
    job = here.create(here.file(sums(4))).json()["id"]
    after = here.client.post(f"/v1/fine_tuning/jobs/{job}/cancel").json()
    assert after["status"] == "cancelled"
    assert after["finished_at"] is not None
    refused(here.client.post(f"/v1/fine_tuning/jobs/{job}/cancel"), 409, "conflict")
    absent = f"ftjob-{'0' * 24}"
    refused(here.client.post(f"/v1/fine_tuning/jobs/{absent}/cancel"), 404, "not_found")


def test_events_are_paged_in_both_directions(here: Here) -> None:
    job = here.create(here.file(sums(4))).json()["id"]
    for number in range(4):
        here.events.append(job, f"event {number}")
    url = f"/v1/fine_tuning/jobs/{job}/events"
    first = here.client.get(f"{url}?limit=3").json()
    assert [e["message"] for e in first["data"]] == ["event 3", "event 2", "event 1"]
    assert first["has_more"] is True
    older = here.client.get(f"{url}?after={first['last_id']}").json()
    assert [e["message"] for e in older["data"]] == ["event 0", "job created"]
    newer = here.client.get(f"{url}?order=asc&after={first['last_id']}").json()
    assert [e["message"] for e in newer["data"]] == ["event 2", "event 3"]


def test_the_stream_resumes_and_ends_with_the_job(here: Here) -> None:
    job = here.create(here.file(sums(4))).json()["id"]
    seen = here.events.read(job)[-1].id
    here.events.append(job, "at work")

    def end() -> None:
        time.sleep(0.3)
        over = here.jobs.update(job, lambda j: j.model_copy(update={"status": JobStatus.CANCELLED}))
        finalize(here, over)

    threading.Thread(target=end).start()
    url = f"/v1/fine_tuning/jobs/{job}/events?stream=true"
    answer = here.client.get(url, headers={"Last-Event-ID": seen})
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = [frame.split("\n") for frame in answer.text.strip().split("\n\n")]
    messages = [json.loads(data.removeprefix("data: "))["message"] for _, data in frames]
    assert messages == ["at work", "The job was cancelled"]
    ids = [line.removeprefix("id: ") for line, _ in frames]
    assert seen < ids[0] < ids[1]


def test_a_stream_of_a_job_that_is_over_ends_with_its_history(here: Here) -> None:
    """Also for a client that has seen the last event, or even what was told after it."""
    job = here.create(here.file(sums(4))).json()["id"]
    here.client.post(f"/v1/fine_tuning/jobs/{job}/cancel")
    last = here.events.read(job)[-1].id
    url = f"/v1/fine_tuning/jobs/{job}/events?stream=true"
    assert here.client.get(url, headers={"Last-Event-ID": last}).text == ""
    here.events.append(job, "its webhook was delivered")
    told = here.client.get(url, headers={"Last-Event-ID": last}).text
    assert "its webhook was delivered" in told
    assert "The job was cancelled" in here.client.get(url).text


# --- models, health, errors, keys --------------------------------------------------------------


def test_models_are_listed_with_links_to_their_files(here: Here) -> None:
    assert here.client.get("/v1/models").json()["data"] == []
    model = published(here.store)
    (listed,) = here.client.get("/v1/models").json()["data"]
    assert (listed["id"], listed["object"], listed["base"]) == (model.id, "model", "tiny")
    (file,) = here.client.get(f"/v1/models/{model.id}").json()["files"]
    assert file["name"] == "config.json"
    assert file["url"]
    absent = f"model-{'0' * 24}"
    refused(here.client.get(f"/v1/models/{absent}"), 404, "model_not_found", "model")


def test_health_ready_and_metrics(here: Here) -> None:
    assert here.client.get("/health").json() == {"status": "ok"}
    assert here.client.get("/ready").json() == {"status": "ok", "redis": "ok", "store": "ok"}
    assert "qcrd_http_requests_total" in here.client.get("/metrics").text


def test_unknown_addresses_and_methods_have_the_envelope_too(here: Here) -> None:
    assert "GET /v1/nothing" in refused(here.client.get("/v1/nothing"), 404, "unknown_url")
    refused(here.client.put("/v1/models"), 405, "method_not_allowed")


def test_a_crash_has_the_envelope_and_tells_nothing(here: Here) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret")

    here.jobs.list = broken  # type: ignore[method-assign, assignment]
    message = refused(here.client.get("/v1/fine_tuning/jobs"), 500, "internal_error")
    assert "secret" not in message


def test_keys_are_asked_for_under_v1_before_a_body_is_read(tmp_path: Path) -> None:
    here = Here(tmp_path / "models", keys=("one", "two"))
    refused(here.client.get("/v1/models"), 401, "invalid_api_key")
    for wrong in ("Bearer three", "Basic one", "Bearer", "one"):
        answer = here.client.get("/v1/models", headers={"Authorization": wrong})
        refused(answer, 401, "invalid_api_key")
    refused(here.upload(b" " * (2 << 20)), 401, "invalid_api_key")
    answer = here.client.get("/v1/models", headers={"Authorization": "Bearer two"})
    assert answer.status_code == 200
    assert here.client.get("/health").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_listening_beyond_loopback_needs_keys(host: str) -> None:
    with pytest.raises(ValidationError, match="QCRD_API_KEYS"):
        ApiSettings(host=host)
    assert ApiSettings(host=host, keys=(SecretStr("k"),)).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_none(host: str) -> None:
    assert ApiSettings(host=host).keys == ()


def test_a_budget_of_costs_needs_a_teacher_with_prices(here: Here) -> None:
    answer = here.create(here.file(sums(5)), budget={"cost": 1.5})
    assert "QCRD_TEACHERS" in refused(answer, 400, "no_prices", "budget.cost")


def test_wrong_settings_are_told_without_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCRD_TEACHERS", '{"t": {"url": "http://t", "apikey": "sk-1234"}}')
    with pytest.raises(ValidationError) as raised:
        TeacherSettings()
    assert "sk-1234" not in str(raised.value)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCRD_API_KEYS", "sk-1, sk-2,")
    monkeypatch.setenv("QCRD_TEACHERS", '{"big": {"url": "http://t:80", "concurrency": 4}}')
    assert [key.get_secret_value() for key in ApiSettings().keys] == ["sk-1", "sk-2"]
    assert TeacherSettings().teachers["big"].concurrency == 4
    assert "sk-1" not in repr(ApiSettings())
