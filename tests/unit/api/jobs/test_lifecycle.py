"""Pause, resume, delete, checkpoints, estimates and the place in line, over REST."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import httpx2
import pytest

from qcrd.method.prompts import build_teacher_prompt
from qcrd.records.checkpoint import CheckpointManifest
from qcrd.records.job import JobStatus, PublishedModel, Stage
from qcrd.records.teachers.prompt import PromptForm
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.jobs import commands as verbs
from qcrd.runtime.jobs.state_machine import release_lease, with_changes
from qcrd.runtime.redis.counters import observe_stage_seconds
from qcrd.runtime.storage.store import write_record
from services.api.assembling.sampling_plan import SampleRequest
from services.api.dependencies import Gateway, get_service
from services.api.files import service as files
from services.api.jobs.checks.validation_cache import ValidationCache
from services.api.jobs.create import parse_job_spec
from services.api.jobs.estimating import estimate, teacher_demand
from services.api.jobs.job_prompts import iter_prompts
from tests.unit.api.gateway_client import Here, refused, sums

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def job_id(here: Here) -> str:
    return str(here.create(here.file(sums(5))).json()["id"])


def post(here: Here, job_id: str, verb: str, **body: Any) -> Any:
    return here.client.post(f"{JOBS}/{job_id}/{verb}", json=body or None)


def test_pause_and_resume_tell_who_and_send_the_stage_it_was_in(here: Here, job_id: str) -> None:
    claimed = verbs.claim_job(here.jobs, job_id, "w", stage=Stage.ASSEMBLING, now=time.time())
    assert claimed is not None
    verbs.update_job(here.jobs, job_id, claimed.lease.token, stage=Stage.TRAINING)
    here.jobs.update(job_id, lambda job: release_lease(job, time.time()))
    here.queue.drain()
    paused = post(here, job_id, "pause").json()
    assert (paused["status"], paused["paused_because"]) == (
        "paused",
        "key anonymous asked for it",
    )
    refused(post(here, job_id, "pause"), 409, "conflict")
    assert here.queue.drain() == []
    resumed = post(here, job_id, "resume").json()
    assert (resumed["status"], resumed["paused_because"]) == ("queued", None)
    assert here.queue.drain() == [(Stage.TRAINING, job_id)]
    refused(post(here, job_id, "resume"), 409, "conflict")
    told = [event.message for event in here.events.read(job_id)]
    assert told[-2:] == ["paused: key anonymous asked for it", "resumed by key anonymous"]


def test_a_job_is_resumed_with_another_budget(here: Here, job_id: str) -> None:
    post(here, job_id, "pause")
    refused(
        post(here, job_id, "resume", budget={"teacher_tokens": 0}),
        400,
        "invalid_value",
        "budget.teacher_tokens",
    )
    refused(post(here, job_id, "resume", money=3), 400, "invalid_value", "money")
    refused(post(here, job_id, "resume", budget={"cost": 3}), 400, "no_prices", "budget.cost")
    resumed = post(here, job_id, "resume", budget={"teacher_tokens": 500}).json()
    assert resumed["budget"] == {"teacher_tokens": 500, "cost": None}


def test_only_a_job_that_is_over_is_deleted_and_then_it_is_gone(here: Here, job_id: str) -> None:
    refused(here.client.delete(f"{JOBS}/{job_id}"), 409, "conflict")
    post(here, job_id, "cancel")
    here.store.put(keys.job_predictions_key(job_id), b"x")
    here.store.put(f"{keys.judge_prefix(job_id)}000001/judge.json", b"x")
    assert here.client.delete(f"{JOBS}/{job_id}").json()["deleted"] is True
    refused(here.client.get(f"{JOBS}/{job_id}"), 404, "not_found")
    assert here.events.read(job_id) == []
    left = [key for key in here.store.list("") if job_id in key]
    assert left == [archive_keys.deleted_job_key(job_id)]
    refused(here.client.delete(f"{JOBS}/{job_id}"), 404, "not_found")


def test_a_deleted_job_leaves_no_scores_beside_its_set(here: Here, job_id: str) -> None:
    """Or the set would be shown with scores that are gone."""
    rationale_set, other = f"set-{'a' * 24}", f"ftjob-{'1' * 24}"
    here.jobs.update(job_id, lambda job: with_changes(job, rationale_set=rationale_set))
    for judge in (job_id, other):
        here.store.put(keys.rationale_scores_key(rationale_set, judge), b"{}")
    post(here, job_id, "cancel")
    assert here.client.delete(f"{JOBS}/{job_id}").json()["deleted"] is True
    left = here.store.list(keys.rationale_scores_prefix(rationale_set))
    assert left == [keys.rationale_scores_key(rationale_set, other)]


def test_a_job_is_kept_while_another_waits_for_its_set(here: Here, job_id: str) -> None:
    file = here.jobs.get(job_id).spec.training_file
    follower = here.create(file, knowledge_of=job_id).json()["id"]
    post(here, job_id, "cancel")
    assert follower in refused(here.client.delete(f"{JOBS}/{job_id}"), 409, "conflict")
    post(here, follower, "cancel")
    assert here.client.delete(f"{JOBS}/{job_id}").status_code == 200


def test_the_states_of_a_training_job_are_checkpoints_with_links(here: Here, job_id: str) -> None:
    assert here.client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"] == []
    for step, best in ((4, None), (9, [1, 0.75, -0.5])):
        folder = f"{keys.checkpoint_prefix(job_id)}qcrd/"
        here.store.put(f"{folder}blobs/{step:064d}", b"weights")
        manifest = CheckpointManifest(
            run="r",
            numbers={"step": step, "best": best},
            blobs={"weights/000001": f"{step:064d}"},
            saved_at=1000.0 + step,
        )
        write_record(here.store, f"{folder}states/{step:08d}.json", manifest)
    found = here.client.get(f"{JOBS}/{job_id}/checkpoints?limit=1").json()
    newest = found["data"][0]
    assert (newest["step_number"], newest["method"], newest["created_at"]) == (9, "qcrd", 1009)
    assert newest["metrics"]["valid_accuracy"] == 0.75
    assert [file["name"] for file in newest["files"]] == [
        "state.json",
        "weights-000001.safetensors",
    ]
    assert newest["files"][1]["url"].endswith("d2VpZ2h0cw==")  # the twin links to the bytes
    assert found["has_more"] is True
    rest = here.client.get(f"{JOBS}/{job_id}/checkpoints?after={newest['id']}").json()
    assert [c["step_number"] for c in rest["data"]] == [4]
    refused(here.client.get(f"{JOBS}/{job_id}/checkpoints?after=x"), 400, "invalid_value", "after")


def test_the_student_of_a_finished_job_is_its_checkpoint(here: Here, job_id: str) -> None:
    model = PublishedModel(
        id=keys.new_id("model"), job_id=job_id, created_at=7, base="tiny", files=("config.json",)
    )
    here.store.put(f"{keys.model_prefix(model.id)}config.json", b"{}")
    write_record(here.store, keys.model_manifest_key(model.id), model)
    here.jobs.update(
        job_id, lambda job: with_changes(job, model=model.id, status=JobStatus.RUNNING)
    )
    (found,) = here.client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]
    assert found["fine_tuned_model_checkpoint"] == model.id
    assert [file["name"] for file in found["files"]] == ["config.json"]


def test_a_waiting_job_knows_its_place_and_when_it_will_begin(here: Here) -> None:
    file = here.file(sums(5))
    first, second = (here.create(file, seed=seed).json() for seed in range(2))
    assert (first["queue_position"], second["queue_position"]) == (1, 2)
    assert second["queue"]["eta_seconds"] is None
    low = here.create(file, priority="low").json()
    high = here.create(file, priority="high").json()
    assert (low["queue_position"], high["queue_position"]) == (3, 1)
    for seconds in (10, 30):
        observe_stage_seconds(get_service(here.app, Gateway).shared.counters, "assembling", seconds)
    listed = here.client.get(JOBS).json()["data"]
    assert {job["id"]: job["queue"] for job in listed}[second["id"]] == {
        "position": 3,
        "eta_seconds": 60.0,
    }
    verbs.claim_job(here.jobs, second["id"], "w", stage=Stage.ASSEMBLING, now=time.time())
    assert here.client.get(f"{JOBS}/{second['id']}").json()["queue"] is None


def test_an_estimate_without_its_teacher_says_what_it_assumes(here: Here) -> None:
    body = {
        "model": "tiny",
        "training_file": here.file(sums(5)),
        "method": {"type": "qcrd", "qcrd": {"task": {"answer": "number"}}},
    }
    found = here.client.post(f"{JOBS}/estimate", json=body).json()
    teacher = found["teacher"]
    assert (teacher["outputs"], teacher["asked"]) == (25, 25)
    assert teacher["completion_tokens"] is None
    assert teacher["completion_tokens_at_most"] == 25 * 256
    assert "4 characters a token" in teacher["basis"][0]
    assert found["budget"]["message"] == "no budget is set"
    assert found["training_steps"] == 10
    assert (found["assembling_seconds"], found["training_seconds"]) == (None, None)
    assert here.jobs.list(None, 10) == []
    small = {**body, "budget": {"teacher_tokens": 10}}
    tight = here.client.post(f"{JOBS}/estimate", json=small).json()["budget"]
    assert tight["fits"] is False
    refused(
        here.client.post(f"{JOBS}/estimate", json={**body, "model": "none"}),
        400,
        "model_not_found",
        "model",
    )
    labels = {**body, "method": {"type": "finetune", "finetune": {"task": {"answer": "number"}}}}
    free = here.client.post(f"{JOBS}/estimate", json=labels).json()
    assert (free["teacher"]["asked"], free["assembling_seconds"]) == (0, 0.0)


def test_an_estimate_wants_what_the_job_would_ask(here: Here) -> None:
    """Also of questions that are in both files; and it keeps few prompts, the same ones each time.
    Of 40 + 30 questions 10 are in both: 60 prompts, 5 samples of 40 of them and 7 of the rest."""
    rationales = {"n": 5, "test_samples": 7}
    method = {"type": "qcrd", "qcrd": {"task": {"answer": "number"}, "rationales": rationales}}
    files_ = {"training_file": here.file(sums(40)), "test_file": here.file(sums(30, start=30))}
    spec = parse_job_spec({"model": "tiny", "method": method, **files_})
    counted = list(iter_prompts(here.store, spec, PromptForm()))
    found = teacher_demand.sample_prompts(counted)
    rows = {
        row.question.id: (row.question, samples)
        for file_id, samples in ((files_["test_file"], 7), (files_["training_file"], 5))
        for row in files.iter_rows(here.store, file_id)
    }
    wanted = {
        SampleRequest(prompt, index).key: len(prompt.text)
        for question, samples in rows.values()
        for prompt in [build_teacher_prompt(spec.settings.task, question)]
        for index in range(samples)
    }
    assert len(wanted) == 40 * 5 + 20 * 7
    assert {key: length for length, keys in found.prompts for key in keys} == wanted
    assert len(found.prompts) == 60
    assert len(found.sample) == teacher_demand.MAX_TOKENIZED_PROMPTS
    assert set(found.sample) <= {prompt.text for prompt in counted}
    assert set(teacher_demand.sample_prompts(reversed(counted)).sample) == set(found.sample)


def test_an_estimate_does_not_hold_the_files_it_reads(tmp_path: Path) -> None:
    here = Here(tmp_path / "models", file_bytes=16 << 20)
    rows = [{**row, "question": f"{row['question']} {'x ' * 20_000}"} for row in sums(200)]
    method = {"type": "qcrd", "qcrd": {"task": {"answer": "number"}}}
    body = {"model": "tiny", "training_file": here.file(rows), "method": method}
    estimate.estimate_job(get_service(here.app, Gateway), body, ValidationCache())
    tracemalloc.start()
    estimate.estimate_job(get_service(here.app, Gateway), body, ValidationCache())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3_000_000, "of 8 MB of text"


def test_metrics_show_jobs_lines_and_what_workers_counted(here: Here, job_id: str) -> None:
    tally = get_service(here.app, Gateway).shared.counters
    tally.increment("teacher_tokens", 7, teacher="default", kind="prompt")
    observe_stage_seconds(tally, "training", 2.0)
    shown = here.client.get("/metrics").text
    for line in (
        'qcrd_jobs{status="queued"} 1.0',
        'qcrd_queue_length{task="assemble"} 1.0',
        'qcrd_jobs_wanted{task="assemble"} 1.0',
        'qcrd_jobs_wanted{task="train"} 0.0',
        'qcrd_teacher_tokens_total{kind="prompt",teacher="default"} 7.0',
        'qcrd_stage_seconds_bucket{le="5.0",stage="training"} 1.0',
        "qcrd_lease_losses_total 0.0",
        "qcrd_redis_up 1.0",
    ):
        assert f"\n{line}\n" in shown


def test_every_route_s_errors_and_bodies_are_described(here: Here) -> None:
    document = here.client.get("/openapi.json").json()
    assert json.dumps(document).count("HTTPValidationError") == 0
    for path, verbs_ in document["paths"].items():
        for verb, route in verbs_.items():
            if path.startswith("/v1/"):
                assert {"400", "401", "403", "404", "429", "500", "503"} <= set(
                    route["responses"]
                ), (path, verb)
    asked = document["paths"][JOBS]["post"]["requestBody"]["content"]["application/json"]
    assert asked["schema"] == {"$ref": "#/components/schemas/JobRequest"}
    assert httpx2.Response(200, json=document).is_success
