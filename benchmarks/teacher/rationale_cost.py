"""What a rationale costs: the demo's questions asked of its teacher, as billed.

The stage `assembling` of `examples/demo.yaml` against a teacher server of its own, with everything
but the teacher in memory. Prompt tokens are those that the teacher counts and a hosted one would
bill; accepted rationales are the set's positives; an output is unparseable as the set counts it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.teacher import load
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.rationales import RationaleManifest
from qcrd.runtime import keys
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.storage.store import MemoryStore, read_record
from services.api.assembling.stage import assemble
from services.api.assembling.teacher.tgi_client import install_http_client_factory
from services.api.files import service as files
from services.api.jobs.create import parse_job_spec
from services.api.settings import TeacherConfig

DEMO = Path(__file__).parents[2] / "examples/demo.yaml"
MAX_PROMPT_TOKENS_PER_RATIONALE = 160
MAX_UNPARSEABLE_SHARE = 0.02
"""The issue's."""


def run_assembling(url: str, questions: int) -> tuple[Job, RationaleManifest, float]:
    """The job after the stage, its set, and the stage's seconds."""
    store, jobs, events = MemoryStore(), MemoryJobStore(), MemoryEventLog()
    body: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    lines = (DEMO.parent / body["training_file"]).read_bytes().splitlines(keepends=True)
    blob = files.write_blob(store, lines[:questions], limit=1 << 30)
    body |= {"training_file": files.publish_file(store, blob, filename="q.jsonl").id}
    del body["test_file"]
    job = Job(
        id=keys.new_id("ftjob"),
        spec=parse_job_spec(body),
        status=JobStatus.QUEUED,
        created_at=time.time(),
    )
    jobs.create(job)
    deps = WorkerDeps(jobs, events, store, MemoryJobQueue())
    teachers, buffer = {"default": TeacherConfig(url=url)}, MemoryGenerationBuffer()
    started = time.perf_counter()
    run_stage(deps, job.id, Stage.ASSEMBLING, lambda stage: assemble(stage, buffer, teachers))
    seconds = time.perf_counter() - started
    job = jobs.get(job.id)
    if job.rationale_set is None:
        raise RuntimeError(f"the stage did not end well: {job.failure or job.paused_because}")
    key = keys.rationale_manifest_key(job.rationale_set)
    return job, read_record(store, key, RationaleManifest), seconds


def measure(questions: int) -> dict[str, Any]:
    install_http_client_factory()
    with tempfile.TemporaryDirectory() as folder, load.run_teacher(QCRD_DATA=folder) as url:
        job, manifest, seconds = run_assembling(url, questions)
    counts, usage = manifest.counts, job.usage
    return {
        "questions": counts.questions,
        "outputs": counts.outputs,
        "positives": counts.positives,
        "prompt_tokens": usage.teacher_prompt_tokens,
        "completion_tokens": usage.teacher_completion_tokens,
        "prompt_tokens_per_rationale": round(usage.teacher_prompt_tokens / counts.positives, 1),
        "unparseable_share": round(counts.unparseable / counts.outputs, 4),
        "majority_right_share": round(counts.majority_right / counts.questions, 4),
        "seconds": round(seconds, 1),
        "completion_tokens_per_second": round(usage.teacher_completion_tokens / seconds, 1),
    }
