"""A job's whole training stage: the method, its baselines, the report, the published student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch.distributed.device_mesh import DeviceMesh

from qcrd.errors import QcrdError
from qcrd.method.distributed.ranks import Ranks, SingleRank
from qcrd.method.judge.model import JudgeBackend
from qcrd.method.student.base import Student, Weights
from qcrd.method.student.loading import load_matching_weights, load_student
from qcrd.method.training.negatives.sampler import (
    InlineNegativeSampler,
    NegativeSampler,
    never_interrupt,
)
from qcrd.method.training.schedule import make_schedule
from qcrd.records.job import Job, Report, Stage
from qcrd.records.specs.spec import Baseline
from qcrd.runtime import keys
from qcrd.runtime.jobs.stage_context import StageContext
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.json_lines import write_lines
from services.trainer.checkpoints.store import CheckpointStore, StudentResult
from services.trainer.data import preflight, training_dataset
from services.trainer.data.revision import pin_revision
from services.trainer.results import predictions, publish
from services.trainer.results.answer_judging import AnswerJudgeTraining
from services.trainer.results.answering import StudentAnswers
from services.trainer.results.report import build_report
from services.trainer.student_run import StudentRun, train_student

RELATIVE_STEP_COST = {"finetune": 1.0, "single_task": 3.0, "dss": 3.0, "dss+positives": 4.0}
MAX_RELATIVE_STEP_COST = 6.0
"""Rough work per step against label-only finetuning, and that of the methods with negatives. They
only divide the progress bar."""


@dataclass(frozen=True)
class TrainingResources:
    """The inputs of training besides the rationale set. `make_judge` makes one by its id; a `fixed`
    base is where the negative source of that name takes its weights from; `make_sampler` makes the
    sampler of negatives;
    the processes of `ranks` train together, on the `mesh` if there is one; `mark_progress` is
    called at each step and each batch."""

    base_dir: Path
    make_judge: Callable[[str], JudgeBackend]
    fixed_checkpoint: Path | None = None
    make_sampler: Callable[[Student], NegativeSampler] = InlineNegativeSampler
    device: str = "cpu"
    checkpoint_seconds: float = 30.0
    ranks: Ranks = field(default_factory=SingleRank)
    mesh: DeviceMesh | None = None
    mark_progress: Callable[[], None] = never_interrupt


def run_distillation(stage: StageContext, resources: TrainingResources) -> tuple[Report, str]:
    """The report and the published model's id. A repeated run skips what has finished."""
    job = stage.job
    spec, settings = job.spec, job.spec.settings
    if job.rationale_set is None:
        raise QcrdError(f"job {job.id} reached training without a rationale set")
    set_id, ranks = job.rationale_set, resources.ranks
    # The first rank to look would pin it, and the others might see later edits.
    revision_id = ranks.run_on_main(lambda: pin_revision(stage, set_id).id)
    revision = rationale_edits.load_revision(stage.store, set_id, revision_id)
    dataset = training_dataset.load_dataset(stage.store, job.rationale_set, spec, revision)
    stage.emit(
        f"{len(dataset.examples)} questions to train on, {len(dataset.validation.questions)} to "
        f"validate on, {len(dataset.test)} to test on"
    )
    if dataset.contradicting:
        stage.emit(
            f"{dataset.contradicting} positive rationales argue for another answer than the label: "
            "a student that answers from its rationale does not learn them",
            once="contradicting",
        )
    # Without edits the digest is that of earlier versions: old checkpoints stay valid.
    edit_ids = [revision.id] if revision.edits else []
    run_digest = keys.digest(spec.dump_identity(), job.rationale_set, *edit_ids)
    checkpoints = CheckpointStore(
        stage.store,
        job.id,
        run_digest=run_digest,
        interval_seconds=resources.checkpoint_seconds,
        ranks=resources.ranks,
    )

    def make_student() -> Student:
        hyper = settings.hyperparameters
        student = load_student(
            resources.base_dir, settings.student, hyper, seed=spec.seed, device=resources.device
        )
        student.ranks = resources.ranks
        preflight.check_labels(student, dataset.labels, spec)
        preflight.check_questions_differ(stage, student, dataset)
        preflight.warn_about_cut_questions(stage, student, dataset)
        preflight.warn_about_chat_template(stage, student)
        return student

    methods = [spec.method.value, *_exclude_method(settings.baselines, spec.method.value)]
    progress_shares = _progress_shares(methods)
    load_fixed_weights = (
        None
        if resources.fixed_checkpoint is None
        else _make_weights_loader(resources.fixed_checkpoint)
    )
    judge_id = keys.make_answer_judge_id(job.id)
    answer_judge = AnswerJudgeTraining(judge_id, partial(resources.make_judge, judge_id))
    results: dict[str, StudentResult] = {}
    for index, method in enumerate(methods):
        is_equal_compute = method == Baseline.FINETUNE_EQUAL_COMPUTE
        schedule = make_schedule(
            method,
            settings,
            n_examples=len(dataset.examples),
            seed=spec.seed,
            flops=results[methods[0]].flops if is_equal_compute else None,
        )
        objective = schedule.objective
        student_run = StudentRun(
            schedule=replace(schedule, micro_batches=job.micro_batches),
            dataset=dataset,
            make_student=make_student,
            judge=resources.make_judge(job.id) if objective.uses_judge else None,
            make_sampler=resources.make_sampler,
            answer_judge=answer_judge,
            is_published=index == 0,
            mesh=resources.mesh,
            mark_progress=resources.mark_progress,
            load_fixed_weights=load_fixed_weights if objective.uses_negatives else None,
            progress_start=sum(progress_shares[:index]),
            progress_share=progress_shares[index],
        )
        on_finished = _make_uploader(stage, job) if index == 0 else _skip_upload
        results[method] = train_student(stage, student_run, checkpoints, on_finished)
    if stage.job.stage is not Stage.EVALUATING:  # all results were there
        stage.enter_stage(Stage.EVALUATING)
    final_report = build_report(stage.job, dataset, results)
    write_lines(
        stage.store,
        keys.job_predictions_key(job.id),
        predictions.list_predictions(
            dataset.test, settings.task, {row: results[row].predictions for row in methods}
        ),
    )
    stage.enter_stage(Stage.PUBLISHING)
    model = publish.publish_model(stage.store, stage.job, final_report)
    return final_report, model.id


def _make_weights_loader(checkpoint: Path) -> Callable[[Student], Weights]:
    return lambda student: load_matching_weights(student, checkpoint)


def _exclude_method(baselines: Sequence[Baseline], method: str) -> list[str]:
    return [row.value for row in dict.fromkeys(baselines) if row.value != method]


def _progress_shares(methods: Sequence[str]) -> list[float]:
    """Each row's expected share of the job's training; equal compute costs what the method does."""
    costs = [
        RELATIVE_STEP_COST.get(
            methods[0] if method == Baseline.FINETUNE_EQUAL_COMPUTE else method,
            MAX_RELATIVE_STEP_COST,
        )
        for method in methods
    ]
    return [cost / sum(costs) for cost in costs]


def _make_uploader(stage: StageContext, job: Job) -> Callable[[Student, StudentAnswers], None]:
    return lambda student, answers: publish.upload_model(stage.store, job, student, answers)


def _skip_upload(_: Student, __: StudentAnswers) -> None:
    """A no-op: baselines are evaluated, not published."""
