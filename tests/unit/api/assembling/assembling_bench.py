"""A stage `assembling` on twins, with a scripted teacher."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from qcrd.records.job import Job, JobStatus, Lease, Stage
from qcrd.records.rationales import RationaleItem, RationaleManifest, TestItem
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.asking_turns import MemoryAskingTurns
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.redis.teacher_notes import MemoryTeacherNotes
from qcrd.runtime.storage.json_lines import read_lines
from qcrd.runtime.storage.store import MemoryStore, read_record
from services.api.assembling.backoff_policy import BackoffPolicy
from services.api.assembling.stage import assemble
from services.api.files import service as files
from services.api.jobs.create import parse_job_spec
from services.api.settings import TeacherConfig
from tests.fakes.scripted_teacher import ScriptedTeacher

NUMBERS = {"answer": "number"}


QUICK = BackoffPolicy(
    poll_interval=0.05, initial_delay=0.02, max_delay=0.2, outage_timeout=5.0, overload_timeout=5.0
)


def a_job(lease: int, **changes: Any) -> Job:
    """Claimed for the `lease`-th time."""
    spec = JobSpec(model="tiny", training_file=keys.new_id("file"))
    held = Lease(token=lease, owner="worker", until=time.time() + 60)
    named = {"id": f"ftjob-{0:024x}", "created_at": 0.0, **changes}
    return Job(spec=spec, lease=held, status=JobStatus.RUNNING, **named)


class Bench:
    """A gateway's worker with everything in memory, and a teacher over HTTP."""

    def __init__(self, teacher: ScriptedTeacher, concurrency: int = 8) -> None:
        self.teacher = teacher
        self.teachers = {"default": TeacherConfig(url=teacher.url, concurrency=concurrency)}
        self.store, self.jobs, self.events = MemoryStore(), MemoryJobStore(), MemoryEventLog()
        self.queue, self.ledger = MemoryJobQueue(), MemoryGenerationBuffer()
        self.notes, self.turns = MemoryTeacherNotes(), MemoryAskingTurns()

    def file(self, rows: list[dict[str, Any]]) -> str:
        body = "".join(json.dumps(row) + "\n" for row in rows).encode()
        blob = files.write_blob(self.store, [body], limit=1 << 30)
        return files.publish_file(self.store, blob, filename="q.jsonl").id

    def job(self, training: str, test: str | None = None, kind: str = "qcrd", **body: Any) -> Job:
        method = {"type": kind, kind: {"task": NUMBERS, **body}}
        spec = parse_job_spec(
            {"model": "tiny", "training_file": training, "test_file": test, "method": method}
        )
        job = Job(
            id=keys.new_id("ftjob"), spec=spec, status=JobStatus.QUEUED, created_at=time.time()
        )
        self.jobs.create(job)
        return job

    def run(self, job: Job, pace: BackoffPolicy = QUICK) -> Job:
        deps = WorkerDeps(self.jobs, self.events, self.store, self.queue)
        run_stage(
            deps,
            job.id,
            Stage.ASSEMBLING,
            lambda stage: assemble(stage, self.ledger, self.teachers, pace, self.notes, self.turns),
        )
        return self.jobs.get(job.id)

    def manifest(self, job: Job) -> RationaleManifest:
        assert job.rationale_set is not None
        key = keys.rationale_manifest_key(job.rationale_set)
        return read_record(self.store, key, RationaleManifest)

    def items(self, job: Job) -> list[RationaleItem]:
        shards = self.manifest(job).shards
        return [item for shard in shards for item in read_lines(self.store, shard, RationaleItem)]

    def test_items(self, job: Job) -> list[TestItem]:
        key = self.manifest(job).test
        return [] if key is None else list(read_lines(self.store, key, TestItem))

    def said(self, job: Job, level: str = "warn") -> list[str]:
        return [e.message for e in self.events.read(job.id, None, 1000) if e.level == level]


def adds(prompt: str, seed: int) -> str:
    """Right for two seeds of three, wrong by one for the rest."""
    number = int(prompt.rsplit("What is ", 1)[1].split(" ")[0])
    wrong = seed % 3 == 0
    return f" One more than {number}.\n<Answer>: {number + 1 + wrong}"


MakeBench = Callable[..., Bench]
