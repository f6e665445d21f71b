"""`/v1/studies` and `knowledge_of`, with everything behind the gateway in memory."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qcrd.errors import Transient
from qcrd.method.evaluation.statistics import wilson_interval
from qcrd.records.job import Job, JobStatus, ModelRef, Report, Stage, Usage
from qcrd.records.rationales import Prediction, RationaleCounts
from qcrd.runtime import keys
from qcrd.runtime.jobs import commands as verbs
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.state_machine import release_lease
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from qcrd.runtime.storage.json_lines import write_lines
from services.api.assembling.stage import assemble
from services.api.dependencies import Gateway, get_service
from services.api.studies import service as studies
from tests.unit.api.gateway_client import TASK, Here, refused, sums

METHODS = ["finetune", "finetune_equal_compute", "qcrd"]
COUNTS = RationaleCounts(
    questions=4,
    outputs=8,
    parsed=8,
    unparseable=0,
    majority_right=4,
    majority_wrong=0,
    ties=0,
    positives=8,
    negatives=0,
)


def study_body(here: Here, method: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    kind = {"type": "qcrd", "qcrd": {**TASK, **(method or {})}}
    job = {
        "model": "tiny",
        "training_file": here.file(sums(4)),
        "test_file": here.file(sums(4, start=50)),
        "method": kind,
    }
    return {"job": job, "methods": METHODS, "seeds": [0, 1], **more}


def create(here: Here, **more: Any) -> dict[str, Any]:
    answer = here.client.post("/v1/studies", json=study_body(here, **more))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def get(here: Here, study_id: str) -> dict[str, Any]:
    return dict(here.client.get(f"/v1/studies/{study_id}").json())


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"seeds": list(range(30_000))}, "seeds"), ({"methods": ["qcrd"] * 30_000}, "methods")],
)
def test_a_study_without_bounds_is_refused_at_once(
    here: Here, changes: dict[str, Any], param: str
) -> None:
    answer = here.client.post("/v1/studies", json=study_body(here) | changes)
    assert "at most 256" in refused(answer, 400, "invalid_value", param)


def assemble_all(here: Here) -> None:
    """Run what is queued, as the gateway's worker would; nobody is asked."""
    deps = WorkerDeps(here.jobs, here.events, here.store, here.queue)
    for stage, job_id in here.queue.drain():
        if stage is Stage.ASSEMBLING:
            run_stage(
                deps, job_id, stage, lambda context: assemble(context, MemoryGenerationBuffer(), {})
            )


def assemble_one(here: Here, job_id: str) -> Job:
    """Run the stage of that job, whatever is queued, and give the job as it is then."""
    deps = WorkerDeps(here.jobs, here.events, here.store, here.queue)
    run_stage(
        deps, job_id, Stage.ASSEMBLING, lambda stage: assemble(stage, MemoryGenerationBuffer(), {})
    )
    return here.jobs.get(job_id)


def hold(here: Here, job_id: str) -> None:
    """Somebody works on the job, if nobody does yet."""
    verbs.claim_job(here.jobs, job_id, "w", stage=Stage.ASSEMBLING, now=0.0, ttl=1e12)


def lead(here: Here, study: dict[str, Any]) -> None:
    """The leader has its set and goes on to training."""
    job_id = study["leader"]
    hold(here, job_id)
    job = here.jobs.get(job_id)
    made = {"rationale_set": "set-" + "a" * 24, "stage": Stage.TRAINING}
    verbs.update_job(here.jobs, job_id, job.lease.token, **made)
    here.jobs.update(job_id, lambda job: release_lease(job, time.time()))


def succeed(here: Here, job_id: str, right: int, validated: int = 1) -> None:
    """A trained job with `right` of its four test questions answered rightly, in each row, and
    `validated` of two of its validation."""
    job = here.jobs.get(job_id)
    rows = [job.spec.method.value, *(row.value for row in job.spec.settings.baselines)]
    measured = wilson_interval(right, 4).model_copy(
        update={"steps": 3, "flops": 1e6, "seconds": 1.0}
    )
    report = Report(
        job_id=job_id,
        status=JobStatus.SUCCEEDED,
        test={"teacher": wilson_interval(3, 4), **dict.fromkeys(rows, measured)},
        validation=dict.fromkeys(rows, wilson_interval(validated, 2)),
        rationales=COUNTS,
        usage=Usage(),
        model=ModelRef(id="model-" + "0" * 24),
        seconds={},
        seed=job.spec.seed,
    )
    answers = [
        Prediction(question_id=f"q{i}", text="", answer=None, gold="", right=i < right, method=row)
        for row in rows
        for i in range(4)
    ]
    write_lines(here.store, keys.job_predictions_key(job_id), answers)
    if job.status is JobStatus.QUEUED:
        verbs.transition_job(here.jobs, job_id, JobStatus.RUNNING)
    verbs.transition_job(here.jobs, job_id, JobStatus.SUCCEEDED, report=report)


def test_a_study_is_one_job_per_method_and_seed_on_one_set(here: Here) -> None:
    study = create(here)
    assert (study["object"], study["status"]) == ("study", "running")
    assert (study["methods"], study["seeds"]) == (METHODS, [0, 1])
    assert study["baseline"] == "finetune_equal_compute"
    assert study["job"]["method"]["type"] == "qcrd"
    # qcrd carries finetune_equal_compute as a row, and is what asks the teacher, so it leads
    assert [(job["method"], job["seed"]) for job in study["jobs"]] == [
        ("qcrd", 0),
        ("finetune", 0),
        ("finetune", 1),
        ("qcrd", 1),
    ]
    assert [job["status"] for job in study["jobs"]] == ["queued"] * 4
    assert study["leader"] == study["jobs"][0]["id"]
    assert [job_id for _, job_id in here.queue.drain()] == [job["id"] for job in study["jobs"]]
    for shown in study["jobs"]:
        spec = here.jobs.get(shown["id"]).spec
        assert spec.knowledge_of == (None if shown["id"] == study["leader"] else study["leader"])
        assert (spec.method.value, spec.seed) == (shown["method"], shown["seed"])
        rows = ["finetune_equal_compute"] if spec.method == "qcrd" else []
        assert [row.value for row in spec.settings.baselines] == rows
        assert spec.metadata == {"study": study["id"]}
    assert study["table"]["rows"][0] == {
        **study["table"]["rows"][0],
        "method": "finetune",
        "n": 0,
        "of": 2,
        "accuracy": None,
    }
    assert get(here, study["id"]) == study


def test_labels_alone_need_no_teacher_and_the_first_job_leads(here: Here) -> None:
    study = create(here, methods=["finetune"], baseline="finetune")
    assert study["leader"] == study["jobs"][0]["id"]
    assemble_all(here)
    found = [here.jobs.get(job["id"]) for job in study["jobs"]]
    assert all(job.stage is Stage.TRAINING for job in found)
    assert len({job.rationale_set for job in found}) == 1
    assert get(here, study["id"])["rationale_set"] == found[0].rationale_set


def test_the_others_wait_for_the_leader_s_set_and_take_it(here: Here) -> None:
    study = create(here)
    leader, follower = study["leader"], study["jobs"][1]["id"]
    here.queue.drain()
    for job in study["jobs"]:
        if job["id"] != follower:
            hold(here, job["id"])  # or a message for one would be used for another

    waiting = assemble_one(here, follower)
    assert (waiting.status, waiting.stage, waiting.attempt) == (
        JobStatus.QUEUED,
        Stage.ASSEMBLING,
        0,
    )
    assert waiting.waiting == f"job {leader} has no rationale set yet"
    assert get(here, study["id"])["jobs"][1]["waiting"] == waiting.waiting
    assert here.queue.drain() == [(Stage.ASSEMBLING, follower)]
    lead(here, study)
    taken = assemble_one(here, follower)
    assert (taken.stage, taken.rationale_set) == (Stage.TRAINING, "set-" + "a" * 24)
    assert here.queue.drain() == [(Stage.TRAINING, follower)]


@pytest.mark.parametrize("assembled", [False, True])
def test_a_leader_that_ended_is_followed_only_if_it_left_a_set(here: Here, assembled: bool) -> None:
    study = create(here)
    follower = study["jobs"][1]["id"]
    if assembled:
        lead(here, study)
    here.client.post(f"/v1/fine_tuning/jobs/{study['leader']}/cancel")
    here.queue.drain()
    here.queue.send(Stage.ASSEMBLING, follower)
    assemble_all(here)
    job = here.jobs.get(follower)
    if assembled:
        assert (job.status, job.stage) == (JobStatus.RUNNING, Stage.TRAINING)
        return
    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert (job.failure.code, job.failure.param) == ("no_knowledge", "knowledge_of")
    assert f"{study['leader']} cancelled" in job.failure.message
    assert "again" in job.failure.message


def test_the_table_grows_and_the_state_is_that_of_the_jobs(here: Here) -> None:
    study = create(here)
    ids = {(job["method"], job["seed"]): job["id"] for job in study["jobs"]}
    succeed(here, ids["qcrd", 0], 4)
    succeed(here, ids["finetune", 0], 2)
    found = get(here, study["id"])
    assert found["status"] == "running"
    finetune, equal, qcrd = found["table"]["rows"]
    assert [(row["n"], row["of"]) for row in (finetune, equal, qcrd)] == [(1, 2)] * 3
    assert (qcrd["accuracy"], qcrd["interval"], equal["accuracy"]) == (1.0, "wilson", 1.0)
    assert finetune["comparison"]["difference"] == -0.5
    assert found["table"]["references"]["teacher"]["accuracy"] == 0.75
    verbs.transition_job(here.jobs, ids["qcrd", 1], JobStatus.CANCELLED)
    succeed(here, ids["finetune", 1], 1)
    found = get(here, study["id"])
    assert found["status"] == "incomplete"
    assert any("qcrd 1 of 2" in note for note in found["table"]["notes"])


def test_a_whole_study_has_succeeded_and_comes_as_json_markdown_and_svg(here: Here) -> None:
    study = create(here)
    for right, job in enumerate(study["jobs"], 1):
        succeed(here, job["id"], right)
    assert get(here, study["id"])["status"] == "succeeded"
    where = f"/v1/studies/{study['id']}/table"
    table = here.client.get(where)
    assert table.json() == get(here, study["id"])["table"]
    assert table.json()["rows"][2]["comparison"]["seeds"] == [0, 1]
    text = here.client.get(f"{where}?format=markdown")
    assert text.headers["content-type"].startswith("text/markdown")
    assert "| qcrd " in text.text
    plot = here.client.get(f"{where}?format=svg")
    assert plot.headers["content-type"] == "image/svg+xml"
    ET.fromstring(plot.text)
    refused(here.client.get(f"{where}?format=png"), 400, "invalid_value", "format")
    bare = here.client.get(f"/v1/studies/{study['id']}?with_table=false").json()
    assert bare["table"] is None


def test_a_cancelled_study_ends_all_its_jobs_and_keeps_what_succeeded(here: Here) -> None:
    study = create(here)
    done = study["jobs"][1]["id"]
    succeed(here, done, 2)
    ended = here.client.post(f"/v1/studies/{study['id']}/cancel").json()
    assert ended["status"] == "incomplete"
    states = {job["id"]: job["status"] for job in ended["jobs"]}
    assert states.pop(done) == "succeeded"
    assert set(states.values()) == {"cancelled"}
    assert here.client.post(f"/v1/studies/{study['id']}/cancel").status_code == 200
    other = create(here)
    assert here.client.post(f"/v1/studies/{other['id']}/cancel").json()["status"] == "failed"


def test_studies_are_listed_newest_first_in_pages(here: Here) -> None:
    made = [create(here)["id"] for _ in range(3)]
    first = here.client.get("/v1/studies?limit=2").json()
    assert ([s["id"] for s in first["data"]], first["has_more"]) == (made[:0:-1], True)
    rest = here.client.get(f"/v1/studies?after={first['last_id']}").json()
    assert ([s["id"] for s in rest["data"]], rest["has_more"]) == (made[:1], False)
    refused(here.client.get("/v1/studies?after=x"), 400, "invalid_value", "after")


def test_a_study_that_is_not_there(here: Here) -> None:
    absent = "study-" + "0" * 24
    for path in (absent, f"{absent}/table"):
        refused(here.client.get(f"/v1/studies/{path}"), 404, "study_not_found", "study_id")
    refused(here.client.post(f"/v1/studies/{absent}/cancel"), 404, "study_not_found", "study_id")
    refused(here.client.get("/v1/studies/x"), 404, "study_not_found", "study_id")


class DyingJobs(MemoryJobStore):
    """Redis goes away after `left` jobs."""

    left = 2

    def create(self, job: Job) -> None:
        if not self.left:
            raise Transient("Redis is away")
        self.left -= 1
        super().create(job)


def test_what_a_crash_left_out_is_shown_and_created_on_request(here: Here) -> None:
    dying = DyingJobs()
    gateway = get_service(here.app, Gateway)
    here.app.state.services[Gateway] = replace(gateway, jobs=dying)
    answer = here.client.post("/v1/studies", json=study_body(here))
    refused(answer, 503, "unavailable")
    (study,) = here.client.get("/v1/studies").json()["data"]
    found = get(here, study["id"])
    assert [job["status"] for job in found["jobs"]] == ["queued", "queued", None, None]
    assert found["jobs"][0]["id"] == found["leader"]
    assert "/resume" in found["jobs"][2]["error"]
    assert len(dying.list(None, 10)) == 2
    dying.left = 10
    resumed = here.client.post(f"/v1/studies/{study['id']}/resume").json()
    assert [job["status"] for job in resumed["jobs"]] == ["queued"] * 4
    assert [job["id"] for job in resumed["jobs"]] == [job["id"] for job in found["jobs"]]
    here.client.post(f"/v1/studies/{study['id']}/resume")
    assert len(dying.list(None, 10)) == 4


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"methods": ["qcrd", "qcrd"]}, "invalid_value", "methods.1"),
        ({"baseline": "dss"}, "invalid_value", "baseline"),
        ({"seeds": []}, "invalid_value", "seeds"),
        ({"sedes": [1]}, "unknown_key", "sedes"),
        (
            {"method": {"negatives": {"lag": 10}, "hyperparameters": {"iteration_steps": 9}}},
            "lag_not_reached",
            "job.method.qcrd.negatives.lag",
        ),
        ({"method": {"teacher": "gpt"}}, "unknown_teacher", "job.method.qcrd.teacher"),
        ({"method": {"rationale": {}}}, "unknown_key", "job.method.qcrd.rationale"),
    ],
)
def test_a_wrong_study_is_refused_and_leaves_nothing(
    here: Here, change: dict[str, Any], code: str, param: str
) -> None:
    answer = here.client.post("/v1/studies", json=study_body(here, **change))
    assert f"`{param}" in refused(answer, 400, code, param)
    assert here.store.list(keys.STUDIES) == []
    assert here.queue.drain() == []


def test_a_wrong_setting_is_named_as_the_body_has_it_whatever_the_methods(here: Here) -> None:
    """The body's own method is qcrd, which the study does not train."""
    change = {"methods": ["dss", "finetune"], "baseline": "finetune"}
    fine = {"negatives": {"lag": 10}}
    assert create(here, method=fine, **change)["jobs"]
    wrong = study_body(here, {"teacher": "gpt"}, **change)
    answer = here.client.post("/v1/studies", json=wrong)
    assert "`job.method.qcrd.teacher`" in refused(
        answer, 400, "unknown_teacher", "job.method.qcrd.teacher"
    )


def test_files_are_named_by_their_path_in_the_study(here: Here) -> None:
    body = study_body(here)
    body["job"]["test_file"] = body["job"]["training_file"]
    answer = here.client.post("/v1/studies", json=body)
    assert "`job.test_file`" in refused(answer, 400, "same_file", "job.test_file")


def test_needed_files_are_not_deleted(here: Here) -> None:
    study = create(here)
    refused(here.client.delete(f"/v1/files/{study['job']['test_file']}"), 409, "conflict")


# --- knowledge_of ------------------------------------------------------------------------------


def test_a_job_may_train_on_what_another_assembled(here: Here) -> None:
    training = here.file(sums(4))
    first = here.create(training).json()
    assert first["knowledge_of"] is None
    method = {"type": "dss", "dss": {**TASK, "loss": {"beta": 0.5}}}
    second = here.create(training, method=method, seed=3, knowledge_of=first["id"])
    assert second.json()["knowledge_of"] == first["id"]


@pytest.mark.parametrize(
    ("body", "top", "param"),
    [
        ({}, {"training_file": "other"}, "training_file"),
        ({}, {"test_file": "other"}, "test_file"),
        ({}, {"validation_file": "other"}, "validation_file"),
        ({"rationales": {"n": 3}}, {}, "method.qcrd.rationales"),
        ({"task": {"answer": "text"}}, {}, "method.qcrd.task"),
        ({"label_mode": "llm"}, {}, "method.qcrd.label_mode"),
    ],
)
def test_other_knowledge_than_this_job_s_own_is_refused(
    here: Here, body: dict[str, Any], top: dict[str, str], param: str
) -> None:
    training, other = here.file(sums(4)), here.file(sums(4, start=20))
    first = here.create(training).json()["id"]
    files = dict.fromkeys(top, other)
    answer = here.create(files.pop("training_file", training), body, knowledge_of=first, **files)
    assert first in refused(answer, 400, "other_knowledge", param)


def test_knowledge_of_labels_alone_has_no_rationales(here: Here) -> None:
    training = here.file(sums(4))
    labels = here.create(training, method={"type": "finetune", "finetune": TASK}).json()["id"]
    answer = here.create(training, knowledge_of=labels)
    assert "labels only" in refused(answer, 400, "other_knowledge", "knowledge_of")


def test_knowledge_of_a_job_that_is_not_there(here: Here) -> None:
    training = here.file(sums(4))
    absent = "ftjob-" + "0" * 24
    refused(here.create(training, knowledge_of=absent), 400, "job_not_found", "knowledge_of")
    refused(here.create(training, knowledge_of="../x"), 400, "invalid_id", "knowledge_of")


def test_a_study_can_take_an_older_job_s_set(here: Here, tmp_path: Path) -> None:
    body = study_body(here)
    older = here.client.post("/v1/fine_tuning/jobs", json=body["job"]).json()["id"]
    body["job"]["knowledge_of"] = older
    study = here.client.post("/v1/studies", json=body).json()
    assert here.jobs.get(study["leader"]).spec.knowledge_of == older
    assert studies.get_study(here.store, study["id"]).leader == study["leader"]


def test_rows_with_settings_of_their_own_are_jobs_and_share_a_set_where_it_is_the_same(
    here: Here,
) -> None:
    once = {"name": "one sample", "method": "dss", "settings": {"rationales": {"n": 1}}}
    again = {"name": "one sample, no contrast", "method": "dss+positives"}
    again |= {"settings": {"rationales": {"n": 1}, "loss": {"scheme": "mean"}}}
    methods = ["finetune", "qcrd", "star", once, again]
    study = create(here, methods=methods, baseline="finetune", seeds=[0])
    ids = {job["method"]: job["id"] for job in study["jobs"]}
    assert list(ids) == ["qcrd", "one sample", "finetune", "star", "one sample, no contrast"]
    specs = {name: here.jobs.get(job_id).spec for name, job_id in ids.items()}
    assert study["leader"] == ids["qcrd"]
    knowledge = {name: spec.knowledge_of for name, spec in specs.items()}
    assert knowledge == {
        "qcrd": None,
        "one sample": None,
        "finetune": ids["qcrd"],
        "star": ids["qcrd"],
        "one sample, no contrast": ids["one sample"],
    }
    # What two sets ask the teacher for is paid once: the one waits for the other.
    assert {name: spec.after for name, spec in specs.items() if spec.after} == {
        "one sample": ids["qcrd"]
    }
    star = specs["star"]
    assert (star.method.value, star.settings.positives.source) == (
        "dss+positives+negatives",
        "student",
    )
    assert specs["one sample"].settings.rationales.n == 1
    assert specs["one sample, no contrast"].settings.loss.scheme == "mean"
    assert specs["qcrd"].settings.rationales.n == 5
    assert star.metadata == {"study": study["id"], "row": "star"}
    assert study["rows"][2]["settings"]["negatives"]["keep_right"] is True
    assert get(here, study["id"]) == study


def test_one_waits_for_another_s_outputs_until_that_asks_no_more(here: Here) -> None:
    once = {"name": "one sample", "method": "dss", "settings": {"rationales": {"n": 1}}}
    study = create(here, methods=["dss", once], baseline="dss", seeds=[0])
    leader, second = (job["id"] for job in study["jobs"])
    here.queue.drain()
    hold(here, leader)

    assert assemble_one(here, second).waiting == f"job {leader} asks the teacher first"
    assert here.queue.drain() == [(Stage.ASSEMBLING, second)]
    lead(here, study)
    asked = assemble_one(here, second)
    assert asked.failure is not None
    assert asked.failure.code == "unknown_teacher"  # it goes on, and there is none here


def test_of_trials_the_best_on_validation_is_shown_once_all_have_ended(here: Here) -> None:
    trials = [{"learning_rate": 1e-4}, {"learning_rate": 3e-4}]
    study = create(here, methods=["dss", "qcrd"], baseline="dss", seeds=[0], trials=trials)
    ids = {(job["method"], job["trial"]): job["id"] for job in study["jobs"]}
    rates = {
        key: here.jobs.get(i).spec.settings.hyperparameters.learning_rate for key, i in ids.items()
    }
    assert rates == {(m, t): trials[t]["learning_rate"] for m in ("dss", "qcrd") for t in (0, 1)}
    succeed(here, ids["dss", 0], 4, validated=1)
    dss, _ = get(here, study["id"])["table"]["rows"]
    assert dss["n"] == 0  # of its other trial nothing is known yet
    succeed(here, ids["dss", 1], 1, validated=2)
    succeed(here, ids["qcrd", 0], 3, validated=1)
    succeed(here, ids["qcrd", 1], 2, validated=1)
    found = get(here, study["id"])
    dss, qcrd = found["table"]["rows"]
    # The test does not choose: dss is better there under the other.
    assert dss["by_seed"] == [{"seed": 0, "accuracy": 0.25, "trial": 1}]
    assert qcrd["by_seed"] == [{"seed": 0, "accuracy": 0.75, "trial": 0}]
    assert qcrd["comparison"]["difference"] == 0.5
    assert "trained 2 times (0: learning_rate 0.0001; 1: learning_rate 0.0003)" in str(
        found["table"]["notes"]
    )


OTHER_QUESTIONS = {"negatives": {"control": "other_question"}}
OWN_SAMPLES = {"positives": {"source": "student"}}
KEPT = {"negatives": {"control": "other_question", "keep_right": True}}


@pytest.mark.parametrize(
    ("method", "settings", "mode", "param", "code"),
    [
        ("dss", {"loss": {"contrast": "dpo"}}, "gold", "loss.contrast", "unread_field"),
        ("dss", {"positives": {"keep": 0.2}}, "gold", "positives.keep", "unread_field"),
        ("finetune", {"positives": {"select": "difficulty"}}, "gold", "positives", "unread_field"),
        ("dss", OTHER_QUESTIONS, "gold", "negatives", "unread_field"),
        ("dss+positives", {"discriminator": {"hidden": 8}}, "gold", "discriminator",
         "unread_field"),
        ("dss", {"rationales": {"stop": ["x" * 300]}}, "gold", "rationales.stop.0", "too_large"),
        ("qcrd", {"negatives": {"control": "other_question", "source": "teacher_minority"}},
         "gold", "negatives.control", "control_contradicted"),
        ("qcrd", OWN_SAMPLES | {"negatives": {"source": "teacher_minority", "keep_right": True,
         "filter": "wrong_only"}}, "gold", "positives.source", "no_own_samples"),
        ("qcrd", {"positives": {"source": "student", "select": "difficulty"}}, "gold",
         "positives.select", "unread_field"),
        ("dss", OWN_SAMPLES, "gold", "positives.source", "no_own_samples"),
        ("qcrd", OWN_SAMPLES, "gold", "positives.source", "no_own_samples"),
        ("qcrd", KEPT, "gold", "negatives.control", "control_contradicted"),
        ("dss", {"rationales": {"positive_rule": "gold"}}, "llm", "rationales.positive_rule",
         "invalid_value"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_fit_is_refused_by_its_path(
    here: Here, method: str, settings: dict[str, Any], mode: str, param: str, code: str
) -> None:
    row = {"name": "x", "method": method, "settings": settings}
    body = study_body(here, method={"label_mode": mode}, methods=["qcrd", "finetune", row])
    answer = here.client.post("/v1/studies", json=body | {"baseline": "qcrd"})
    path = f"methods.2.settings.{param}"
    assert f"`{path}`" in refused(answer, 400, code, path)


def test_a_method_that_needs_the_teacher_s_logits_is_refused_by_name(here: Here) -> None:
    body = study_body(here)["job"] | {"method": {"type": "gkd"}}
    answer = here.client.post("/v1/fine_tuning/jobs", json=body)
    told = refused(answer, 400, "no_teacher_logits", "method.type")
    assert "benchmarks.logit_distillation" in told


def test_rows_without_settings_are_checked_with_the_job_s_whatever_comes_first(
    here: Here,
) -> None:
    """The first row's own settings say nothing of the others."""
    negatives = {"lag": 10}
    method = {"negatives": negatives, "hyperparameters": {"iterations": 5, "iteration_steps": 9}}
    row = {"name": "fixed", "method": "qcrd", "settings": {"negatives": {"source": "fixed"}}}
    for methods in ([row, "qcrd"], ["qcrd", row]):
        body = study_body(here, method=method, methods=methods) | {"baseline": "qcrd"}
        refused(
            here.client.post("/v1/studies", json=body),
            400,
            "lag_not_reached",
            "job.method.qcrd.negatives.lag",
        )
    alone = study_body(here, method=method, methods=[row]) | {"baseline": "fixed"}
    assert here.client.post("/v1/studies", json=alone).status_code == 200


def test_what_one_row_reads_is_no_fault_of_the_job_that_another_does_not(here: Here) -> None:
    row = {"name": "other", "method": "qcrd", "settings": {"loss": {"delta": 4.0}}}
    method = {"loss": {"contrast": "dpo"}}
    create(here, method=method, methods=["dss", row], baseline="dss", seeds=[0])


def test_the_reference_s_trial_says_how_long_the_one_with_its_compute_may_train(
    here: Here,
) -> None:
    trials: list[dict[str, Any]] = [
        {"iterations": 6},
        {"iterations": 12},
        {"iterations": 12, "learning_rate": 1e-4},
    ]
    methods = ["finetune_equal_compute", "qcrd"]
    study = create(here, methods=methods, seeds=[0], trials=trials)
    ids = {job["trial"]: job["id"] for job in study["jobs"]}
    for trial, validated in enumerate((2, 1, 2)):
        succeed(here, ids[trial], trial, validated=validated)
    equal, qcrd = get(here, study["id"])["table"]["rows"]
    assert [row["by_seed"][0]["trial"] for row in (equal, qcrd)] == [0, 0]
    assert equal["flops"] == qcrd["flops"]


def test_a_trial_that_was_cancelled_is_told(here: Here) -> None:
    trials: list[dict[str, Any]] = [{"learning_rate": 1e-4}, {"iteration_steps": 3}]
    study = create(here, methods=["dss"], baseline="dss", seeds=[0], trials=trials)
    first, second = (job["id"] for job in study["jobs"])
    here.client.post(f"/v1/fine_tuning/jobs/{second}/cancel")
    succeed(here, first, 2)
    notes = " ".join(get(here, study["id"])["table"]["notes"])
    assert "trials that did not succeed: dss, seed 0, trial 1 (cancelled)" in notes
    assert "1: iteration_steps 3" in notes


def test_files_that_rows_import_have_sets_of_their_own(here: Here) -> None:
    training = [{**row, "teacher_output": f"so <Answer>: {row['label']}"} for row in sums(4)]
    greedy = here.file(training)
    row = {"name": "greedy", "method": "single_task"}
    row |= {"settings": {"rationales": {"import": greedy, "positive_rule": "all"}}}
    study = create(here, methods=["dss", row], baseline="dss", seeds=[0])
    spec = here.jobs.get(study["jobs"][1]["id"]).spec
    assert (spec.knowledge_of, spec.after) == (None, study["leader"])
    assert spec.settings.rationales.import_file == greedy
