"""A study on real parts: Valkey, S3 and the discriminator.

Its jobs are trained in this process: in one of its own each is trained where the whole stack has a
study, in `tests/e2e`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.specs.study_rows import ROWS, NamedRow
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from qcrd.runtime.settings import ModelSettings
from services.api.app import create_app
from services.api.assembling.stage import assemble
from services.api.dependencies import GatewaySettings
from services.api.settings import ApiSettings, FileSettings, TeacherSettings
from tests.integration.site import Site, question
from tests.things import LABELS, THINGS

METHODS = ["finetune", "finetune_equal_compute", "qcrd"]
GOLD_POSITIVES = {"rationales": {"positive_rule": "gold"}}


@pytest.fixture
def client(site: Site) -> TestClient:
    """The gateway on the site's Valkey and S3."""
    models = ModelSettings(models_dir=site.models)
    settings = GatewaySettings(ApiSettings(), TeacherSettings(), FileSettings(), models)
    deps = site.deps
    app = create_app(deps.store, deps.jobs, deps.events, deps.queue, settings)
    return TestClient(app, base_url="http://127.0.0.1")


def upload(client: TestClient, rows: list[dict[str, Any]]) -> str:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    answer = client.post(
        "/v1/files", files={"file": ("q.jsonl", data)}, data={"purpose": "fine-tune"}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def rows(numbers: range, *, answered: bool = False) -> list[dict[str, Any]]:
    made = []
    for thing, (label, reason) in THINGS.items():
        outputs = [f"{reason}\n<Answer>: {label}", f"so {reason}\n<Answer>: {label}"]
        outputs.append("a thing\n<Answer>: tool")
        for number in numbers:
            row = {"question": question(thing, number).text, "label": label}
            made.append(row | ({"teacher_outputs": outputs} if answered else {}))
    return made


def create(client: TestClient, rationales: dict[str, Any], **changes: Any) -> dict[str, Any]:
    answer = ask(client, rationales, **changes)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ask(client: TestClient, rationales: dict[str, Any], **changes: Any) -> Any:
    training = upload(client, rows(range(8), answered=True))
    if "import" in rationales:
        rationales = {**rationales, "import": training}
    method = {
        "task": {"answer": "label", "labels": LABELS},
        "rationales": rationales,
        "negatives": {"lag": 1},
        "discriminator": {"pretrain_steps": 2, "update_steps": 1, "hidden": 8, "max_tokens": 32},
        "student": {"decoder_layers": 1},
        "hyperparameters": {
            "iterations": 2,
            "iteration_steps": 4,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "max_rationale_tokens": 8,
            "max_label_tokens": 4,
        },
    }
    job = {
        "model": "tiny-bert",
        "training_file": training,
        "test_file": upload(client, rows(range(8, 10))),
        "method": {"type": "qcrd", "qcrd": method},
    }
    body = {"job": job, "methods": METHODS, "seeds": [0, 1], **changes}
    return client.post("/v1/studies", json=body)


def work_off(site: Site) -> list[Job]:
    """Both workers until nothing is queued, the youngest message first. Returns the jobs that were
    seen waiting."""
    assert isinstance(site.deps.queue, MemoryJobQueue)
    waited = []
    while taken := site.deps.queue.drain():
        for stage, job_id in reversed(taken):
            if stage is Stage.ASSEMBLING:
                run_stage(
                    site.deps,
                    job_id,
                    stage,
                    lambda context: assemble(context, MemoryGenerationBuffer(), {}),
                )
                job = site.jobs.get(job_id)
                waited += [job] if job.waiting else []
            else:
                site.work_here(job_id)
    return waited


def test_a_study_of_two_trainings_and_two_seeds_ends_with_a_table(
    site: Site, client: TestClient
) -> None:
    study = create(client, {"import": "the training file"})
    # The leader is the first in line, whichever message comes first: nobody waits for its set.
    assert work_off(site) == []
    done = client.get(f"/v1/studies/{study['id']}").json()
    assert done["status"] == "succeeded", done["jobs"]
    assert {job["rationale_set"] for job in done["jobs"]} == {done["rationale_set"]}
    table = done["table"]
    assert (table["measured"], table["questions"], table["notes"]) == ("test", 8, [])
    assert [(row["method"], row["n"], row["of"]) for row in table["rows"]] == [
        (method, 2, 2) for method in METHODS
    ]
    finetune, equal, qcrd = table["rows"]
    assert finetune["steps"] == qcrd["steps"] < equal["steps"]
    assert equal["flops"] == pytest.approx(qcrd["flops"], rel=0.2)
    assert qcrd["comparison"]["seeds"] == finetune["comparison"]["seeds"] == [0, 1]
    assert equal["comparison"] is None
    for job in done["jobs"]:
        report = site.jobs.get(job["id"]).report
        assert report is not None
        found = next(row for row in table["rows"] if row["method"] == job["method"])
        shown = {one["seed"]: one["accuracy"] for one in found["by_seed"]}
        assert shown[job["seed"]] == report.test[job["method"]].accuracy
    # what the predictions say is what the accuracies say
    assert qcrd["comparison"]["difference"] == pytest.approx(qcrd["accuracy"] - equal["accuracy"])
    # two seeds tell nothing of the methods, whatever they show
    assert (table["equivalence_margin"], qcrd["comparison"]["verdict"]) == (0.015, "cannot tell")
    text = client.get(f"/v1/studies/{study['id']}/table?format=markdown").text
    assert "| qcrd " in text
    assert "| cannot tell |" in text


@pytest.mark.timeout(600)  # fifteen trainings
def test_every_named_row_is_trained_and_stands_in_the_table(site: Site, client: TestClient) -> None:
    """One job each, on three rationale sets: the study's, unfiltered outputs, and those with the
    gold answer."""
    named = [row.value for row in NamedRow if row is not NamedRow.SEQUENCE_LEVEL]
    right = {"name": "gold positives", "method": "dss", "settings": GOLD_POSITIVES}
    methods = ["dss", "qcrd", *named, right]
    given = {"methods": methods, "baseline": "dss", "seeds": [0]}
    study = create(client, {"import": "the training file"}, **given)
    assert [row["method"] for row in study["rows"]] == [
        *("dss", "qcrd"),
        *(ROWS[NamedRow(name)][0] for name in named),
        "dss",
    ]
    work_off(site)
    done = client.get(f"/v1/studies/{study['id']}").json()
    assert done["status"] == "succeeded", [(j["method"], j["error"]) for j in done["jobs"]]
    sets = {job["method"]: job["rationale_set"] for job in done["jobs"]}
    apart = ("dss_unfiltered", "gold positives")
    assert len({sets[name] for name in (*apart, "dss")}) == 3
    assert {s for name, s in sets.items() if name not in apart} == {sets["dss"]}
    rows = {row["method"]: row for row in done["table"]["rows"]}
    assert list(rows) == ["dss", "qcrd", *named, "gold positives"]
    assert all(row["n"] == 1 and row["flops"] > 0 for row in rows.values())
    # What is chosen before the training, and what is sampled and weighs nothing, is paid.
    assert rows["sampling_paid"]["flops"] > rows["rejection_sampling"]["flops"]
    assert rows["difficulty"]["flops"] != rows["dss"]["flops"]
    assert all(rows[name]["rationale_gap"] is not None for name in ("dss", "qcrd", "dpo", "star"))
    assert all(row["given_rationale"] is not None for row in rows.values())
    assert rows["qcrd"]["in_force_share"] is not None
    assert rows["dss"]["in_force_share"] is None
    assert rows["dss"]["teacher_tokens"] is None  # outputs were imported
    listed = client.get("/v1/fine_tuning/jobs?limit=50").json()["data"]
    assert {job["metadata"].get("row") for job in listed} >= {"gold positives", "judge_gold"}


def test_a_row_whose_outputs_nobody_can_give_is_refused(client: TestClient) -> None:
    methods = ["dss", "sequence_level"]
    given = {"methods": methods, "baseline": "dss", "seeds": [0]}
    refused = ask(client, {"import": "the training file"}, **given)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "methods.1")
    assert "`methods.1` (sequence_level)" in error["message"]
    assert error["code"] == "other_outputs"


def test_a_trial_that_learns_nothing_fails_and_the_other_is_shown(
    site: Site, client: TestClient
) -> None:
    given = {"methods": ["dss"], "baseline": "dss", "seeds": [0]}
    trials = [{"learning_rate": rate, "iterations": 6} for rate in (1e-9, 3e-3)]
    study = create(client, {"import": "the training file"}, **given, trials=trials)
    assert [job["trial"] for job in study["jobs"]] == [0, 1]
    work_off(site)
    done = client.get(f"/v1/studies/{study['id']}").json()
    assert [job["status"] for job in done["jobs"]] == ["failed", "succeeded"]
    (row,) = done["table"]["rows"]
    report = site.jobs.get(done["jobs"][1]["id"]).report
    assert report is not None
    assert [(one["seed"], one["trial"]) for one in row["by_seed"]] == [(0, 1)]
    assert row["validation"] == report.validation["dss"].accuracy
    text = client.get(f"/v1/studies/{study['id']}/table?format=markdown").text
    assert "trained 2 times (0: learning_rate 1e-09, iterations 6; 1:" in text
    assert "(trial 1)" in text
    assert "did not succeed: dss, seed 0, trial 0 (failed)" in text


def test_a_leader_that_fails_takes_the_study_with_it_and_is_named(
    site: Site, client: TestClient
) -> None:
    """The worker's settings lack the teacher that the gateway's have."""
    study = create(client, {"n": 2})
    work_off(site)
    failed = client.get(f"/v1/studies/{study['id']}").json()
    assert failed["status"] == "failed"
    leader, *others = failed["jobs"]
    assert (leader["id"], leader["status"]) == (study["leader"], "failed")
    assert "no teacher is named 'default'" in leader["error"]
    for job in others:
        assert job["status"] == "failed"
        assert f"{leader['id']} failed before it had one" in job["error"]
        assert "no teacher is named 'default'" in job["error"]
    assert [(row["n"], row["of"]) for row in failed["table"]["rows"]] == [(0, 2)] * 3
    assert all(site.jobs.get(job["id"]).status is JobStatus.FAILED for job in failed["jobs"])
