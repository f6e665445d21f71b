"""The trainer with its real parts: Valkey, S3, the discriminator, a training process per job."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.rationales import RationaleItem
from qcrd.records.specs.evaluation_spec import EvaluationSpec, FallbackSpec
from qcrd.records.specs.integrations import IntegrationSpec, TrackerRun
from qcrd.records.specs.spec import Baseline, MethodName
from qcrd.records.students.prompt_format import split_joined_output
from qcrd.runtime import keys
from qcrd.runtime.jobs.commands import transition_job
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.storage.json_lines import read_lines, write_lines
from qcrd.runtime.storage.store import read_object
from tests import serving, tiny
from tests.fakes.hub import FakeHub
from tests.integration.site import Site, spec, training_process, when
from tests.things import LABELS


def test_a_job_is_trained_measured_and_published(site: Site, tmp_path: Path) -> None:
    baselines = (Baseline.FINETUNE, Baseline.FINETUNE_EQUAL_COMPUTE)
    tracked = IntegrationSpec(type="tensorboard", tensorboard=TrackerRun(project="things"))
    asked_for = spec(iterations=4, baselines=baselines)
    job_id = site.submit(asked_for.model_copy(update={"integrations": (tracked,)}))
    stages: list[Stage | None] = []

    def has_ended() -> bool:
        job = site.jobs.get(job_id)
        if not stages or stages[-1] is not job.stage:
            stages.append(job.stage)
        return job.status in TERMINAL

    watcher = when(has_ended, lambda: None)
    job = site.work(job_id)
    watcher.join()
    assert job.status is JobStatus.SUCCEEDED, job.failure
    # Each student's answers are evaluation, and the next one's training is training again.
    assert (stages[0], stages.count(Stage.TRAINING) > 1) == (Stage.TRAINING, True), stages
    assert (stages[-1], stages.count(Stage.EVALUATING) > 1) == (Stage.PUBLISHING, True), stages
    written = Path(os.environ["QCRD_TENSORBOARD_DIR"]) / "things" / job.id
    told = [event.message for event in site.deps.events.read(job.id, None, 1000)]
    assert told.count(f"tensorboard has this run: {written}") == 1
    [numbers] = [path.read_bytes() for path in written.iterdir()]
    for name in (b"qcrd/loss", b"finetune/loss", b"qcrd/validation", b"test/qcrd/accuracy"):
        assert name in numbers
    assert job.report is not None
    rows = job.report.test
    assert list(rows) == [
        "teacher",
        "majority_class",
        "qcrd",
        "finetune",
        "finetune_equal_compute",
    ]
    # the teacher said animal 8 times, 2 of them rightly; the majority class is one of four
    assert rows["teacher"].accuracy == rows["majority_class"].accuracy == 0.25
    assert rows["qcrd"].steps == rows["finetune"].steps == 16
    equal = rows["finetune_equal_compute"]
    assert equal.steps is not None
    assert equal.steps > 16
    assert equal.flops == pytest.approx(rows["qcrd"].flops, rel=0.1)
    assert {prediction.method for prediction in site.predictions(job.id)} == set(rows) - {
        "teacher",
        "majority_class",
    }
    assert job.report.judge["auc"] >= 0
    assert job.report.judge["n_student_lag"] == job.report.judge["negatives"]
    judged = [
        event.data
        for event in site.deps.events.read(job.id, None, 1000)
        if event.type == "metrics" and "histograms" in event.data
    ]
    # pretrained on the teacher's minority, then once in each of four iterations
    assert [data["iteration"] for data in judged] == [0, 1, 2, 3, 4]
    assert set(judged[0]["histograms"]["scores"]) == {"positives", "teacher_minority"}
    assert set(judged[4]["histograms"]["scores"]) == {"positives", "student_lag"}
    assert [c.baseline for c in job.report.comparisons] == ["finetune", "finetune_equal_compute"]
    assert job.report.leak is not None
    assert (job.report.leak.n_test, job.report.leak.n_exact) == (8, 0)
    assert job.model == job.report.model.id
    folder = tmp_path / "downloaded"
    folder.mkdir()
    prefix = keys.model_prefix(job.model or "")
    for key in site.store.list(prefix):
        (folder / key.removeprefix(prefix)).write_bytes(read_object(site.store, key))
    assert {"model.safetensors", "config.json", "README.md", "qcrd.json"} <= set(os.listdir(folder))
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = "predict: what kind of thing is a trout ?"
    made = model.generate(**tokenizer(asked, return_tensors="pt", return_token_type_ids=False))
    assert tokenizer.decode(made[0], skip_special_tokens=True)
    card = (folder / "README.md").read_text()
    assert f"| qcrd | {rows['qcrd'].accuracy:.3f}" in card
    assert json.loads((folder / "qcrd.json").read_text())["predict"] == "predict: "


def test_a_student_that_reasons_first_is_trained_and_published(site: Site) -> None:
    """A decoder with a chat, with negatives and judge, beside one that learns the label alone."""
    base = tiny.save_base(site.models / "tiny-chat", "llama", chat_template=tiny.CHAT_TEMPLATE)
    assert base.is_dir()
    given = spec(iterations=4, baselines=(Baseline.FINETUNE,))
    settings = given.settings
    student = settings.student.model_copy(update={"answers": "reasoned", "prompt": "auto"})
    judge = settings.discriminator.model_copy(update={"encoder": "tiny-bert"})
    evaluation = EvaluationSpec(samples=3, judge=True, fallback=FallbackSpec(agreement=0.5))
    update = {"student": student, "discriminator": judge, "evaluation": evaluation}
    settings = settings.model_copy(update=update)
    job = site.work_here(
        site.submit(given.model_copy(update={"model": "tiny-chat", "settings": settings}))
    )
    assert job.status is JobStatus.SUCCEEDED, job.failure
    assert job.report is not None
    told = site.predictions(job.id)
    assert {p.method for p in told} == {"qcrd", "finetune"}
    assert job.report.against_teacher is not None
    assert (job.report.against_teacher.baseline, job.report.against_teacher.n) == ("teacher", 8)
    answering = job.report.answering
    assert answering is not None
    assert answering.swap is not None
    assert answering.swap.n > 0
    assert answering.rows["vote"].n == 8
    assert answering.judged is not None
    assert job.report.doubt is not None
    assert job.report.doubt.n == 8
    assert job.report.cascade is not None
    assert job.report.cascade.threshold is None  # a handful of validation questions
    assert (job.report.cascade.n, job.report.cascade.escalated_per_1000) == (8, 1000)
    assert all(p.confidence is not None and p.tokens for p in told)
    # Held to the labels, every output has an answer; a label alone is held to nothing.
    reasoned = [p for p in told if p.method == "qcrd"]
    assert all(p.answer in LABELS for p in reasoned)
    assert all(split_joined_output(p.text)[1] in LABELS for p in reasoned)
    prefix = keys.model_prefix(job.model or "")
    published = json.loads(read_object(site.store, f"{prefix}qcrd.json"))
    assert published["predict"] == "question : explain: "
    assert published["suffix"] == " so :"
    assert published["joined"]
    assert len(published["answer_form"]["options"]) == len(LABELS)
    assert published["confidence"]["fallback"]["threshold"] > 1
    assert published["vote_confidence"]["samples"] == 3
    assert published["judge"]["id"] == answering.judged.judge
    template = read_object(site.store, f"{prefix}chat_template.jinja").decode()
    assert "question : explain: " in template
    assert (
        "its rationale, `answer:` and its answer"
        in read_object(site.store, f"{prefix}README.md").decode()
    )


def test_killed_training_goes_on_and_ends_the_same(site: Site, calm: Job) -> None:
    """kill -9 of the training process after its first checkpoint: an attempt, then the same end."""
    job_id = site.submit(spec())

    def checkpointed() -> bool:
        return any("iteration 1, validation" in message for message in site.messages(job_id))

    def kill() -> None:
        process = training_process()
        assert process is not None
        process.send_signal(signal.SIGKILL)

    killer = when(checkpointed, kill)
    job = site.work(job_id)
    killer.join()
    assert job.status is JobStatus.RUNNING
    assert job.attempt == 1
    job = site.work(job_id)
    assert job.status is JobStatus.SUCCEEDED
    assert any("resumed after step" in message for message in site.messages(job_id))

    def answers(of: str) -> list[tuple[str | None, str, str | None]]:
        return [(p.method, p.question_id, p.answer) for p in site.predictions(of)]

    assert answers(job_id) == answers(calm.id)
    assert calm.report is not None
    assert job.report is not None
    assert job.report.test["qcrd"].flops == calm.report.test["qcrd"].flops


def test_a_cancelled_job_stops_its_process(site: Site) -> None:
    job_id = site.submit(spec(iterations=500))
    canceller = when(
        lambda: bool(site.messages(job_id)),
        lambda: transition_job(site.jobs, job_id, JobStatus.CANCELLED),
    )
    job = site.work(job_id)
    canceller.join()
    assert job.status is JobStatus.CANCELLED
    assert training_process() is None


def test_a_model_that_is_not_there_fails_with_what_is(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    job = site.work(site.submit(spec().model_copy(update={"model": "no-such-model"})))
    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert job.failure.param == "model"
    assert "tiny-bert" in job.failure.message


def test_a_model_of_a_hub_that_is_away_is_waited_for(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And found when it is back, without an attempt lost."""
    hub = FakeHub({"acme/tiny": site.models / "tiny-bert"}, moods={"": "down"})
    with serving.app(hub.app()) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        small = spec().settings
        judge = small.discriminator.model_copy(update={"encoder": "tiny-bert"})
        settings = small.model_copy(update={"discriminator": judge})
        wanted = spec().model_copy(update={"model": "acme/tiny", "settings": settings})
        job = site.work(site.submit(wanted))
        assert (job.status, job.attempt) == (JobStatus.RUNNING, 0)
        assert "the hub cannot be reached" in (job.waiting or "")
        hub.moods.clear()
        job = site.work(job.id)
    assert job.status is JobStatus.SUCCEEDED, job.failure


def test_a_label_that_the_tokenizer_cannot_say_fails_before_any_step(site: Site) -> None:
    wanted = spec()
    task = wanted.settings.task.model_copy(update={"labels": (*LABELS, "zebra")})
    settings = wanted.settings.model_copy(update={"task": task})
    job_id = site.submit(wanted.model_copy(update={"settings": settings}))
    shard = keys.rationale_shard_key(site.jobs.get(job_id).rationale_set or "", 0)
    items = list(read_lines(site.store, shard, RationaleItem))
    strange = {"label": "zebra", "gold": "zebra"}
    write_lines(site.store, shard, [item.model_copy(update=strange) for item in items])
    job = site.work_here(job_id)
    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert (job.failure.code, job.failure.param) == ("unsayable_label", "training_file")
    assert "'zebra'" in job.failure.message
    assert not any("iteration" in message for message in site.messages(job_id))


def test_a_loss_that_is_not_finite_fails_with_the_step_and_advice(site: Site) -> None:
    folder = tiny.save_base(site.models / "broken-bert")
    weights = load_file(folder / "model.safetensors")
    broken = {name: tensor * float("nan") for name, tensor in weights.items()}
    save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})
    changes = {"model": "broken-bert", "method": MethodName.DSS}
    job = site.work_here(site.submit(spec().model_copy(update=changes)))
    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert job.failure.code == "diverged"
    assert "step 1 of dss" in job.failure.message
    assert "learning_rate" in job.failure.message
