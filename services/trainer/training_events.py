"""Events of a student's training: each is told once, also by a run that does a part again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcrd.method.judge.health import has_collapsed, saw_no_real_negative
from qcrd.method.training.progress import IterationFinished, JudgePretrained, StepFinished
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.records.job import Accuracy
from qcrd.records.specs.task import TaskSpec
from qcrd.runtime.jobs.stage_context import StageContext
from services.trainer.checkpoint_store import StudentResult

EVENT_LOOKBACK = 1000
"""Events that a resumed run reads to know what has been told."""


def find_last_emitted_step(stage: StageContext, method: str) -> int:
    """The last step of `method` that the event log has, 0 without one."""
    events = stage.events.read(stage.job.id, None, EVENT_LOOKBACK, newest_first=True)
    steps = [e.data["step"] for e in events if e.data.get("method") == method and "loss" in e.data]
    return max(steps, default=0)


def emit_step(
    stage: StageContext, schedule: TrainingSchedule, step: StepFinished, percent: float
) -> None:
    """`percent` of the job's training is done."""
    method = schedule.method
    total = schedule.steps if schedule.flops is None else round(step.step / step.completed_fraction)
    stage.report_progress(percent, step=step.step, total=total)
    data: dict[str, Any] = {
        "method": method,
        "step": step.step,
        "iteration": step.iteration,
        "gradient_norm": step.gradient_norm,
        "learning_rate": step.learning_rate,
        **step.losses,
    }
    stage.emit_metrics(f"{method}: step {step.step}, loss {step.losses['loss']:.4f}", **data)


def emit_iteration(stage: StageContext, method: str, record: IterationFinished) -> None:
    data = {
        "method": method,
        "iteration": record.iteration,
        "validation": record.validation_accuracy,
    }
    best_suffix = ", the best so far" if record.is_best else ""
    stage.emit(
        f"{method}: iteration {record.iteration}, validation "
        f"{record.validation_accuracy:.3f}{best_suffix}",
        once=f"{method}-round-{record.iteration}",
        **data,
        judge=record.judge_metrics,
    )
    if record.judge_metrics:
        emit_judge_health(stage, method, record.iteration, record)


def emit_judge_health(
    stage: StageContext, method: str, iteration: int, record: JudgePretrained | IterationFinished
) -> None:
    """How the judge stands that iteration `iteration` trained with; 0 is the pretrained one."""
    histograms = record.histograms.model_dump(mode="json") if record.histograms else None
    auc_text = (
        f"{record.judge_metrics['auc']:.3f}" if "auc" in record.judge_metrics else "not measurable"
    )
    stage.emit_metrics(
        f"{method}: judge of iteration {iteration}, AUC {auc_text}",
        once=f"{method}-judge-{iteration}",
        method=method,
        iteration=iteration,
        judge=record.judge_metrics,
        histograms=histograms,
    )
    if has_collapsed(record.judge_metrics):
        stage.events.append(
            stage.job.id,
            "the judge no longer tells right from wrong (AUC "
            f"{record.judge_metrics['alarm_auc']:.2f} on "
            f"{record.judge_metrics['alarm_negatives']:.0f} negatives); "
            "try `discriminator.loss: bce`, more `pretrain_steps` or a lower `learning_rate`",
            level="warn",
            data={"judge": record.judge_metrics},
            once=f"{method}-collapsed-{iteration}",
        )
    if saw_no_real_negative(record.judge_metrics):
        stage.events.append(
            stage.job.id,
            _describe_missing_negatives(record.judge_metrics),
            level="warn",
            data={"judge": record.judge_metrics},
            once=f"{method}-no-real-negatives",
        )


def _describe_missing_negatives(metrics: Mapping[str, float]) -> str:
    message = (
        "the judge had no wrong teacher output to learn from: it tells corrupted texts from whole "
        "ones, and not right from wrong; more samples per question (`rationales.n`), or "
        "`rationales.positive_rule: gold` with several of them, give it some"
    )
    if alone := metrics.get("questions_without_positives"):
        message += (
            f". {alone:.0f} questions have wrong outputs and no right one beside them, which it "
            "could not use"
        )
    return message


def emit_result(stage: StageContext, method: str, result: StudentResult, task: TaskSpec) -> None:
    accuracy: Accuracy = result.test or result.validation
    name = "test" if result.test else "validation"
    stage.emit(
        f"{method}: {name} accuracy {accuracy.accuracy:.3f} "
        f"[{accuracy.low:.3f}, {accuracy.high:.3f}], n = {accuracy.n}",
        once=f"{method}-result",
        method=method,
        accuracy=accuracy.accuracy,
        unparseable=sum(p.answer is None for p in result.predictions),
        answer_kind=task.answer.value,
    )
