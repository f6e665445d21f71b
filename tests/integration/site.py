"""A site for the trainer with its real parts, shared by the tests that train on it."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from qcrd.method.distributed.ranks import SingleRank
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.rationales import (
    Prediction,
    Question,
    Rationale,
    RationaleCounts,
    RationaleItem,
    RationaleManifest,
    TestItem,
    Vote,
)
from qcrd.records.specs.spec import Baseline, JobSpec, MethodSpec
from qcrd.records.specs.task import TaskSpec
from qcrd.records.specs.training_spec import Hyperparameters, JudgeSpec, NegativeSpec, StudentSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.stage_context import JobDone, StageContext, WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.storage.json_lines import read_lines, write_lines
from qcrd.runtime.storage.store import Store, write_record
from services.trainer.execution.executor import Executor
from services.trainer.execution.local import LocalExecutor
from services.trainer.run import run_job, run_to_outcome
from services.trainer.supervision import process_outcome
from services.trainer.supervision.progress_mark import ProgressMark
from services.trainer.supervision.training_process import supervise_training
from tests.things import LABELS, THINGS, asked


def question(thing: str, number: int) -> Question:
    text = asked(thing, number)
    return Question(id=keys.digest(text), text=text, label=THINGS[thing][0])


def item(thing: str, number: int) -> RationaleItem:
    about, (label, reason) = question(thing, number), THINGS[thing]
    positives = tuple(
        Rationale(id=f"{about.id}/{i}", question_id=about.id, text=text, answer=label)
        for i, text in enumerate((reason, f"so {reason}"))
    )
    wrong = Rationale(id=f"{about.id}/2", question_id=about.id, text="a thing", answer="tool")
    return RationaleItem(
        question=about,
        label=label,
        vote=Vote(answer=label, margin=0.5, tie=False, counts={label: 2, "x": 1}),
        positives=positives,
        negatives=(wrong,),
        gold=label,
    )


def write_set(store: Store) -> str:
    set_id = keys.new_id("set")
    shard, test = keys.rationale_shard_key(set_id, 0), keys.rationale_holdout_key(set_id, "test")
    write_lines(store, shard, [item(t, n) for t in THINGS for n in range(8)])
    tested = [question(thing, number) for thing in THINGS for number in (8, 9)]
    write_lines(
        store,
        test,
        [
            TestItem(question=q, gold=q.label or "", teacher_answer="animal", teacher_asked=True)
            for q in tested
        ],
    )
    counts = RationaleCounts(
        questions=32,
        outputs=96,
        parsed=96,
        unparseable=0,
        majority_right=32,
        majority_wrong=0,
        ties=0,
        positives=64,
        negatives=32,
    )
    manifest = RationaleManifest(id=set_id, shards=(shard,), counts=counts, test=test, created_at=0)
    write_record(store, keys.rationale_manifest_key(set_id), manifest)
    return set_id


def spec(*, baselines: tuple[Baseline, ...] = (), **hyper: object) -> JobSpec:
    """A job of the method itself, and of the `baselines` where a test looks at them: each one is
    another training."""
    settings = {
        "iterations": 3,
        "iteration_steps": 4,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "max_rationale_tokens": 8,
        "max_label_tokens": 4,
    }
    return JobSpec(
        model="tiny-bert",
        training_file="file-" + "0" * 24,
        test_file="file-" + "1" * 24,
        settings=MethodSpec(
            task=TaskSpec.model_validate({"answer": "label", "labels": LABELS}),
            negatives=NegativeSpec(lag=2),
            discriminator=JudgeSpec(pretrain_steps=4, update_steps=2, hidden=8, max_tokens=32),
            student=StudentSpec(decoder_layers=1),
            hyperparameters=Hyperparameters.model_validate({**settings, **hyper}),
            baselines=baselines,
        ),
    )


@dataclass
class Site:
    deps: WorkerDeps
    jobs: RedisJobStore
    store: Store
    models: Path

    def submit(self, wanted: JobSpec) -> str:
        job = Job(
            id=keys.new_id("ftjob"),
            spec=wanted,
            status=JobStatus.QUEUED,
            stage=Stage.TRAINING,
            created_at=time.time(),
            rationale_set=write_set(self.store),
        )
        self.jobs.create(job)
        return job.id

    def work(self, job_id: str, *, processes: int = 1, **limits: Any) -> Job:
        """`limits` go to the executor, `stall_seconds` to what watches it."""
        stall_seconds = limits.pop("stall_seconds", math.inf)
        executor = LocalExecutor(grace_seconds=5, choose_processes=lambda _: processes, **limits)
        return self.work_by(executor, job_id, stall_seconds=stall_seconds)

    def work_by(self, executor: Executor, job_id: str, *, stall_seconds: float = math.inf) -> Job:
        run_stage(
            self.deps,
            job_id,
            Stage.TRAINING,
            lambda stage: supervise_training(stage, executor, stall_seconds=stall_seconds),
        )
        return self.jobs.get(job_id)

    def work_here(self, job_id: str) -> Job:
        """`work` without a process for the training, whose start takes ten times as long as a
        training of these sizes: where a test looks at what was trained."""
        run_stage(self.deps, job_id, Stage.TRAINING, train_here)
        return self.jobs.get(job_id)

    def messages(self, job_id: str) -> list[str]:
        return [event.message for event in self.deps.events.read(job_id, None, 1000)]

    def predictions(self, job_id: str) -> list[Prediction]:
        return list(read_lines(self.store, keys.job_predictions_key(job_id), Prediction))


def train_here(stage: StageContext) -> JobDone:
    """What the training process does of the stage, and what its worker makes of its outcome."""
    with tempfile.TemporaryDirectory() as folder:
        mark_progress = ProgressMark(Path(folder) / "progress")
        outcome = run_to_outcome(
            lambda ranks: run_job(
                stage.job.id, stage.token, threading.Event(), mark_progress, ranks
            ),
            SingleRank(),
        )
    if outcome.report is None:
        raise process_outcome.make_error(outcome)
    return JobDone(outcome.report, {"model": outcome.model})


def training_processes() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "services.trainer.run" in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def training_process() -> psutil.Process | None:
    return next(iter(training_processes()), None)


def when(happens: Callable[[], bool], then: Callable[[], object]) -> threading.Thread:
    """Run `then` in a thread as soon as `happens`."""

    def wait() -> None:
        until = time.monotonic() + 240
        while not happens() and time.monotonic() < until:
            time.sleep(0.02)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread
