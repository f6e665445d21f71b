"""Records as commit 7ecc31f left them in Redis and the store, before there were schema versions.

A system of it (`tests/survival/system.py` at that commit) was stopped with a job in every status
and stage: succeeded, cancelled, training with a checkpoint, waiting for training, assembling,
queued and paused. The file has its jobs' records, the first events and generations, and every JSON
object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from qcrd.records.base import SCHEMA_VERSION, parse_stored_record
from qcrd.records.checkpoint import CheckpointManifest
from qcrd.records.job import Event, Job, JobStatus, PublishedModel, Report, Stage, StoredFile
from qcrd.records.judge import CreateJudgeRequest, JudgeVersion
from qcrd.records.rationale_annotations import RationaleScoreManifest, Revision
from qcrd.records.rationales import RationaleManifest
from qcrd.records.specs.spec import JobSpec
from qcrd.records.students.prompt_format import PromptFormat
from qcrd.runtime.redis.event_log import make_event
from services.api.assembling.generation_cache import Generation
from services.trainer.checkpoints.store import StudentResult

WRITTEN: Mapping[str, Any] = json.loads(
    (Path(__file__).parent / "written_by_7ecc31f.json").read_text()
)
KINDS: Mapping[str, type[BaseModel]] = {
    r"files/.*/meta\.json": StoredFile,
    r"jobs/[^/]*/spec\.json": JobSpec,
    r"jobs/[^/]*/report\.json": Report,
    r"jobs/.*/states/.*\.json": CheckpointManifest,
    r"jobs/.*/result\.json": StudentResult,
    r"judges/.*/judge\.json": JudgeVersion,
    r"judges/[^/]*/spec\.json": CreateJudgeRequest,
    r"models/[^/]*/model\.json": PublishedModel,
    r"models/[^/]*/qcrd\.json": PromptFormat,
    r"rationales/[^/]*/manifest\.json": RationaleManifest,
    r"rationales/.*/revisions/.*\.json": Revision,
    r"rationales/.*/judged/.*\.json": RationaleScoreManifest,
}


def read_object(key: str) -> BaseModel:
    (kind,) = [kind for pattern, kind in KINDS.items() if re.fullmatch(pattern, key)]
    return parse_stored_record(kind, WRITTEN["objects"][key], key)


@pytest.mark.parametrize("key", WRITTEN["objects"])
def test_every_object_is_read_whole(key: str) -> None:
    record = read_object(key)
    assert not record.model_extra
    again = record.model_dump(mode="json", by_alias=True)
    assert contains(again, json.loads(WRITTEN["objects"][key]))


def contains(whole: Any, part: Any) -> bool:
    """Whether `whole` has everything that `part` has."""
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


def test_every_job_is_read_whole() -> None:
    jobs = [parse_stored_record(Job, text, key) for key, text in WRITTEN["jobs"].items()]
    assert {(job.status, job.stage) for job in jobs} == {
        (JobStatus.SUCCEEDED, Stage.PUBLISHING),
        (JobStatus.CANCELLED, Stage.ASSEMBLING),
        (JobStatus.RUNNING, Stage.TRAINING),
        (JobStatus.RUNNING, Stage.ASSEMBLING),
        (JobStatus.QUEUED, None),
        (JobStatus.PAUSED, None),
    }
    for job, text in zip(jobs, WRITTEN["jobs"].values(), strict=True):
        assert job.schema_version == SCHEMA_VERSION
        assert contains(json.loads(job.model_dump_json()), json.loads(text))


def test_what_names_a_checkpoint_is_as_it_was() -> None:
    """The digest of the spec, byte for byte, and that of the manifest: training goes on."""
    for text in WRITTEN["jobs"].values():
        start = text.index('"spec":') + len('"spec":')
        _, end = json.JSONDecoder().raw_decode(text, start)
        assert Job.model_validate_json(text).spec.dump_identity() == text[start:end]
    (key,) = [key for key in WRITTEN["objects"] if "/states/" in key]
    manifest = read_object(key)
    assert isinstance(manifest, CheckpointManifest)
    assert manifest.digest == manifest.check


def test_events_and_generations_are_read() -> None:
    for texts in WRITTEN["events"].values():
        for text in texts:
            event = make_event("ftjob-1", (1, 0), text)
            assert isinstance(event, Event)
            assert contains(json.loads(event.model_dump_json()), json.loads(text))
    for buffer in WRITTEN["generations"].values():
        for key, text in buffer.items():
            assert parse_stored_record(Generation, text, key).key == key
