"""What a job is told of the rationale set that it assembled."""

from __future__ import annotations

from qcrd.questions import labelling
from qcrd.questions.item_tally import ItemTally
from qcrd.records.rationales import RationaleCounts
from qcrd.runtime.jobs.stage_context import StageContext

UNPARSEABLE_WARNING_SHARE = 0.2
"""Share of the outputs above which the prompt, the stop sequence or `max_new_tokens` is suspect."""


def emit_summary(stage: StageContext, tally: ItemTally, counts: RationaleCounts) -> None:
    words = tally.measure_lengths()
    lengths = f"; {words.median} words at the median, {words.longest} at most" if words else ""
    stage.emit(
        f"{counts.outputs} outputs of {counts.questions} questions: {counts.positives} positive "
        f"and {counts.negatives} negative rationales, {counts.unparseable} unparseable{lengths}",
        **labelling.drop_zero_counts(counts),
        words=None if words is None else words.model_dump(),
    )
    if counts.outputs and counts.unparseable > UNPARSEABLE_WARNING_SHARE * counts.outputs:
        warn(
            stage,
            f"{counts.unparseable} of {counts.outputs} outputs have no readable answer: compare "
            "some of them with the task's examples, `stop` and `max_new_tokens`",
            unparseable=counts.unparseable,
            outputs=counts.outputs,
        )
    if tally.unlabelled:
        warn(stage, f"{tally.unlabelled} questions have no label: nothing to train on there")


def warn(stage: StageContext, message: str, *, once: str | None = None, **data: object) -> None:
    stage.events.append(stage.job.id, message, level="warn", data=dict(data), once=once)
