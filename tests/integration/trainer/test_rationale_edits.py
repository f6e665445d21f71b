"""Edits of a rationale set and the scores of its judge, with the trainer's real parts."""

from __future__ import annotations

import signal
import time

import httpx2
import pytest

from qcrd.method.prompts import format_question
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.rationale_annotations import RationaleEdit, RationaleScore, RationaleScoreManifest
from qcrd.records.rationales import RationaleSource
from qcrd.runtime import keys
from qcrd.runtime.settings import DiscriminatorAddress
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.json_lines import read_lines
from qcrd.runtime.storage.store import read_object, read_record
from services.api.rationale_sets.schemas import ExportQuery, ItemQuery
from services.api.rationale_sets.service import RationaleSetService
from tests.integration.site import Site, item, spec, training_process, when, write_set

WANTED = spec()


def submit(site: Site, set_id: str) -> str:
    job = Job(
        id=keys.new_id("ftjob"),
        spec=WANTED,
        status=JobStatus.QUEUED,
        stage=Stage.TRAINING,
        created_at=time.time(),
        rationale_set=set_id,
    )
    site.jobs.create(job)
    return job.id


def edit(site: Site, set_id: str, numbers: range) -> None:
    """Exclude each trout's first positive, and reword each apple's second."""
    for number in numbers:
        first, second = (
            list(rationale_edits.iter_rationales(item(thing, number)))[place][0]
            for thing, place in (("trout", 0), ("apple", 1))
        )
        made = RationaleEdit(id="", item_id=first, excluded=True, by="ann", at=1.0)
        rationale_edits.add_edit(site.store, set_id, made)
        made = RationaleEdit(id="", item_id=second, text="music is the tool", by="ann", at=1.0)
        rationale_edits.add_edit(site.store, set_id, made)


def revision(site: Site, set_id: str) -> str:
    """The id of the set's edits so far."""
    return rationale_edits.make_revision(rationale_edits.read_edits(site.store, set_id)).id


def weights(site: Site, job: Job) -> bytes:
    assert job.status is JobStatus.SUCCEEDED, job.failure
    return read_object(site.store, keys.model_prefix(job.model or "") + "model.safetensors")


@pytest.fixture(scope="module")
def edited(site: Site) -> Job:
    """An undisturbed run of a set with the first edits."""
    set_id = write_set(site.store)
    edit(site, set_id, range(3))
    job = site.work(submit(site, set_id))
    assert job.status is JobStatus.SUCCEEDED, job.failure
    return job


def test_training_keeps_to_the_edits_it_began_with(site: Site, edited: Job) -> None:
    """Killed, the set edited, and resumed: bit for bit what an undisturbed run of the first edits
    gives."""
    set_id = write_set(site.store)
    edit(site, set_id, range(3))
    first_edits = revision(site, set_id)
    job_id = submit(site, set_id)

    def kill() -> None:
        process = training_process()
        assert process is not None
        process.send_signal(signal.SIGKILL)

    killer = when(lambda: any("iteration 1, v" in m for m in site.messages(job_id)), kill)
    assert site.work(job_id).status is JobStatus.RUNNING
    killer.join()
    edit(site, set_id, range(3, 8))
    resumed = site.work(job_id)
    assert any("resumed after step" in message for message in site.messages(job_id))
    assert weights(site, resumed) == weights(site, edited)
    assert resumed.report is not None
    assert resumed.rationale_revision == resumed.report.rationale_revision == first_edits
    assert first_edits != revision(site, set_id)


def test_the_final_judge_scores_the_set_as_it_was_trained_on(site: Site, edited: Job) -> None:
    job, set_id = edited, edited.rationale_set or ""
    judged = read_record(
        site.store, keys.rationale_scores_key(set_id, job.id), RationaleScoreManifest
    )
    assert (judged.version, judged.revision) == (4, job.rationale_revision)
    found = {s.rationale_id: s for s in read_lines(site.store, judged.scores, RationaleScore)}
    students = [s for s in found.values() if s.source is RationaleSource.STUDENT]
    # 4 things of 8 questions with 2 positives and 1 negative; every student's sample has a text.
    assert len(found) - len(students) == 96
    assert students
    assert all(s.text for s in students)
    # The service says the same of the same text.
    trout = item("trout", 4)
    asked = (format_question(WANTED.settings.task, trout.question), trout.positives[0].text)
    answer = httpx2.post(
        f"{DiscriminatorAddress().url}/v1/judges/{job.id}/score", json={"pairs": [asked]}
    ).json()
    assert answer["version"] == 4
    assert abs(answer["scores"][0] - found[trout.positives[0].id].score) < 1e-5
    # And so does the gateway, of every item: edited ones are scored as they were trained on.
    page = RationaleSetService(site.store, site.jobs).list_items(set_id, ItemQuery(limit=1000))
    assert len(page.data) == 96
    assert {one.id for one in page.data if one.score is None} == set()
    assert page.judge is not None
    assert page.judge.job_id == job.id
    reworded = [one for one in page.data if one.text == "music is the tool"]
    assert [one.score for one in reworded] == [found[one.rationale_id].score for one in reworded]
    assert sum(one.excluded for one in page.data) == len(reworded) == 3
    kept = b"".join(
        RationaleSetService(site.store, site.jobs).export_items(set_id, ExportQuery(excluded=False))
    )
    assert kept.count(b"\n") == 93
