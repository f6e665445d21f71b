"""What a trainer reads of a set that people have edited, and which edits it goes on with."""

from __future__ import annotations

import time
from typing import Any

import pytest

from qcrd.errors import Interrupted, Invalid
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.rationale_annotations import RationaleEdit
from qcrd.runtime import keys
from qcrd.runtime.jobs.commands import transition_job
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import NextStage, StageContext, WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.store import MemoryStore
from services.trainer.data import training_dataset
from services.trainer.data.revision import pin_revision
from tests.integration.site import item, spec, write_set

TROUT = item("trout", 0)
GOOD, OTHER = (name for name, *_ in list(rationale_edits.iter_rationales(TROUT))[:2])
WRONG = list(rationale_edits.iter_rationales(TROUT))[2][0]


def edit(store: MemoryStore, set_id: str, item_id: str, **changes: Any) -> RationaleEdit:
    return rationale_edits.add_edit(
        store, set_id, RationaleEdit(id="", item_id=item_id, by="ann", at=1.0, **changes)
    )


def lesson(store: MemoryStore, set_id: str) -> Any:
    """The edited question's, wherever the split left it."""
    wanted = spec(validation_share=0.01)
    known = training_dataset.load_dataset(
        store, set_id, wanted, rationale_edits.pin_revision(store, set_id)
    )
    return next(one for one in known.examples if one.id == TROUT.question.id)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def set_id(store: MemoryStore) -> str:
    return write_set(store)


def test_without_edits_the_set_is_read_as_it_was_assembled(store: MemoryStore, set_id: str) -> None:
    assert lesson(store, set_id).positives == TROUT.positives
    assert lesson(store, set_id).negatives == TROUT.negatives


def test_an_excluded_rationale_is_not_trained_on(store: MemoryStore, set_id: str) -> None:
    edit(store, set_id, GOOD, excluded=True)
    edit(store, set_id, WRONG, excluded=True)
    assert lesson(store, set_id).positives == TROUT.positives[1:]
    assert lesson(store, set_id).negatives == ()
    edit(store, set_id, GOOD, excluded=False)
    assert lesson(store, set_id).positives == TROUT.positives


def test_a_reworded_one_is_and_has_no_other_texts_score(store: MemoryStore, set_id: str) -> None:
    edit(store, set_id, OTHER, text="so it swims", answer="fish")
    found = lesson(store, set_id).positives
    assert found[0] == TROUT.positives[0]
    assert (found[1].text, found[1].answer) == ("so it swims", "fish")
    assert found[1].id == keys.digest(TROUT.question.id, "so it swims")


def test_a_later_edit_leaves_what_it_does_not_name(store: MemoryStore, set_id: str) -> None:
    edit(store, set_id, GOOD, text="first")
    edit(store, set_id, GOOD, excluded=True)
    edit(store, set_id, GOOD, text="second", excluded=False)
    assert lesson(store, set_id).positives[0].text == "second"


def test_a_question_without_positives_still_teaches_its_label(
    store: MemoryStore, set_id: str
) -> None:
    edit(store, set_id, GOOD, excluded=True)
    edit(store, set_id, OTHER, excluded=True)
    found = lesson(store, set_id)
    assert (found.positives, found.label) == ((), "animal")


def test_the_number_of_an_edit_is_above_those_it_followed_on_any_clock(
    store: MemoryStore, set_id: str
) -> None:
    made = [edit(store, set_id, GOOD, text=f"{n}") for n in range(12)]
    assert [one.id for one in made] == sorted(one.id for one in made)
    assert [e.text for e in rationale_edits.read_edits(store, set_id).values()] == [
        str(n) for n in range(12)
    ]


# --- revisions ---------------------------------------------------------------------------------


def attempt(jobs: MemoryJobStore, store: MemoryStore, events: MemoryEventLog, job_id: str) -> str:
    """Begin to train, and be stopped by the container's end: which edits was it?"""
    began: list[str] = []

    def work(stage: StageContext) -> NextStage:
        assert stage.job.rationale_set is not None
        began.append(pin_revision(stage, stage.job.rationale_set).id)
        raise Interrupted("the container ends")

    deps = WorkerDeps(jobs, events, store, MemoryJobQueue(), is_stopping=lambda: True)
    run_stage(deps, job_id, Stage.TRAINING, work)
    return began[0]


def submit(jobs: MemoryJobStore, set_id: str) -> str:
    job = Job(
        id=keys.new_id("ftjob"),
        spec=spec(),
        status=JobStatus.QUEUED,
        stage=Stage.TRAINING,
        created_at=time.time(),
        rationale_set=set_id,
    )
    jobs.create(job)
    return job.id


def test_a_job_goes_on_with_the_edits_it_began_with(store: MemoryStore, set_id: str) -> None:
    jobs, events = MemoryJobStore(), MemoryEventLog()
    edit(store, set_id, GOOD, text="before")
    early = submit(jobs, set_id)
    first = attempt(jobs, store, events, early)
    assert jobs.get(early).rationale_revision == first
    edit(store, set_id, GOOD, text="after")
    assert attempt(jobs, store, events, early) == first
    # Out of the line, or the next message would be used for it again.
    transition_job(jobs, early, JobStatus.CANCELLED)
    late = attempt(jobs, store, events, submit(jobs, set_id))
    assert late != first
    texts = {
        revision: rationale_edits.fold_edits(
            rationale_edits.load_revision(store, set_id, revision).edits
        )[GOOD].text
        for revision in (first, late)
    }
    assert texts == {first: "before", late: "after"}
    told = [event.message for event in events.read(early, None, 100)]
    assert sum("0 rationales are excluded and 1 reworded" in message for message in told) == 1


def test_a_revision_that_is_gone_ends_the_job_with_the_reason(
    store: MemoryStore, set_id: str
) -> None:
    with pytest.raises(Invalid, match="create the job again"):
        rationale_edits.load_revision(store, set_id, "0" * 24)


def test_edits_have_the_same_revision_whoever_reads_them(store: MemoryStore, set_id: str) -> None:
    assert rationale_edits.pin_revision(store, set_id).id == keys.digest()
    edit(store, set_id, GOOD, excluded=True)
    edited = rationale_edits.pin_revision(store, set_id)
    assert (
        edited.id
        == rationale_edits.make_revision(rationale_edits.read_edits(store, set_id)).id
        != keys.digest()
    )
