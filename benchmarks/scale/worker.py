"""One stage in a process of its own, whose peak memory is then its own: `python -m
benchmarks.scale.worker assemble JOB TEACHER`, `… pull SET`, `… page SET`, `… hold JOB`. Prints
JSON."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qcrd.records.job import Stage
from qcrd.records.rationale_annotations import Polarity
from qcrd.records.rationales import RationaleItem, RationaleManifest
from qcrd.runtime import keys
from qcrd.runtime.jobs.celery_worker import make_worker_deps
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.generation_buffer import RedisGenerationBuffer
from qcrd.runtime.settings import RedisSettings, StoreSettings
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.json_lines import read_lines
from qcrd.runtime.storage.store import open_store, read_record
from services.api.assembling.stage import assemble
from services.api.assembling.teacher.tgi_client import install_http_client_factory
from services.api.rationale_sets.schemas import ItemQuery
from services.api.rationale_sets.service import RationaleSetService
from services.api.settings import TeacherConfig
from services.trainer.data.training_dataset import load_dataset

Told = dict[str, float | str]


@contextmanager
def timed(told: Told, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    told[name] = time.perf_counter() - started


def assemble_job(told: Told, job_id: str, teacher: str) -> None:
    """Of a job that is queued, as the gateway's worker does it."""
    install_http_client_factory()
    redis = connect_redis(RedisSettings())
    deps = make_worker_deps(redis, MemoryJobQueue(), threading.Event())
    buffer = RedisGenerationBuffer(redis)
    teachers = {"default": TeacherConfig(url=teacher, concurrency=32)}
    with timed(told, "seconds"):
        run_stage(deps, job_id, Stage.ASSEMBLING, lambda s: assemble(s, buffer, teachers))
    job = deps.jobs.get(job_id)
    assert job.rationale_set is not None, job.waiting or job.failure
    told["set"] = job.rationale_set


def pull_set(told: Told, set_id: str) -> None:
    """Read every item once, as a trainer reads them."""
    store = open_store(StoreSettings())
    manifest = read_record(store, keys.rationale_manifest_key(set_id), RationaleManifest)
    rationales = 0
    with timed(told, "seconds"):
        for shard in manifest.shards:
            for item in read_lines(store, shard, RationaleItem):
                rationales += len(item.positives) + len(item.negatives)
    told["rationales"] = rationales


def page_set(told: Told, set_id: str) -> None:
    """The first page of a gateway that has not seen the set, the next one, and the last one."""
    redis = connect_redis(RedisSettings())
    deps = make_worker_deps(redis, MemoryJobQueue(), threading.Event())
    service = RationaleSetService(open_store(StoreSettings()), deps.jobs)
    with timed(told, "found"):
        assert set_id in {one.id for one in service.list_sets(None, 100).data}
    with timed(told, "cold"):
        first = service.list_items(set_id, ItemQuery(limit=100))
    with timed(told, "warm"):
        service.list_items(set_id, ItemQuery(limit=100, after=first.last_id))
    manifest = read_record(deps.store, keys.rationale_manifest_key(set_id), RationaleManifest)
    *_, last = read_lines(deps.store, manifest.shards[-1], RationaleItem)
    after = rationale_edits.make_item_id(last.question.id, Polarity.POSITIVE, 0)
    with timed(told, "last"):
        service.list_items(set_id, ItemQuery(limit=100, after=after))


def hold_set(told: Told, job_id: str) -> None:
    """All of a job's set, as a training has it in memory."""
    redis = connect_redis(RedisSettings())
    deps = make_worker_deps(redis, MemoryJobQueue(), threading.Event())
    job = deps.jobs.get(job_id)
    assert job.rationale_set is not None
    before = read_peak_mib()
    with timed(told, "seconds"):
        dataset = load_dataset(deps.store, job.rationale_set, job.spec)
    told["questions"] = len(dataset.examples)
    told["taken_mib"] = read_peak_mib() - before


def read_peak_mib() -> float:
    """`getrusage` would also tell of the process that started this one."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


PARTS: dict[str, Callable[..., None]] = {
    "assemble": assemble_job,
    "pull": pull_set,
    "page": page_set,
    "hold": hold_set,
}


def main() -> None:
    told: Told = {}
    PARTS[sys.argv[1]](told, *sys.argv[2:])
    told["peak_mib"] = read_peak_mib()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
