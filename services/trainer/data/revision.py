"""The revision of its rationale set that a job trains with."""

from __future__ import annotations

from qcrd.records.rationale_annotations import Revision
from qcrd.runtime.jobs.stage_context import StageContext
from qcrd.runtime.storage import rationale_edits


def pin_revision(stage: StageContext, set_id: str) -> Revision:
    """The edits that the job trains with: those that existed at its first attempt. Its record
    names them, so an attempt after a crash, a pause or later edits repeats the same training."""
    if (pinned_id := stage.job.rationale_revision) is not None:
        return rationale_edits.load_revision(stage.store, set_id, pinned_id)
    revision = rationale_edits.pin_revision(stage.store, set_id)
    stage.update_job(rationale_revision=revision.id)
    if revision.edits:
        corrections = rationale_edits.fold_edits(revision.edits).values()
        excluded = sum(correction.excluded for correction in corrections)
        reworded = sum(one.text is not None for one in corrections)
        stage.emit(
            f"of the rationale set {excluded} rationales are excluded and {reworded} reworded, "
            f"revision {revision.id}",
            revision=revision.id,
            excluded=excluded,
            reworded=reworded,
        )
    return revision
