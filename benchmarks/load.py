"""What a year of finished work costs: lists, claims, reaper rounds and memory at 10 and 100 times.

Jobs go the way of real ones through Valkey and SeaweedFS: created, claimed, trained by a trainer
that does nothing, published, finalized and moved to their archive. Teacher outputs are made up, and
go through the buffer into shards as paid ones do. At 10 and at 100 units of each the same
operations are timed, the best of many as other work on the machine only adds; the last column is
what 100 units cost against 10.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway.system import BASE_MODEL, BenchmarkSystem, run_system
from qcrd.records.job import Job, JobStatus, ModelRef, PublishedModel, Report, Stage
from qcrd.records.rationales import RationaleCounts
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.archive.open_history import open_event_history, open_job_history
from qcrd.runtime.jobs.commands import transition_job
from qcrd.runtime.jobs.dispatch import claim_next_job
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.reaper import reap_jobs
from qcrd.runtime.jobs.stage_context import JobDone, StageContext, WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from qcrd.runtime.redis.memory import read_redis_memory
from qcrd.runtime.retention.sweeper import Sweeper, make_sweeper
from qcrd.runtime.settings import RetentionSettings
from qcrd.runtime.storage.inventory import InventoriedS3Store
from qcrd.runtime.storage.published_models import add_published_model
from qcrd.runtime.storage.store import write_record
from services.api.assembling.generation_cache import Generation, GenerationCache
from services.api.models.service import list_models

SIZES = (10, 100)
"""Units of finished work that are compared."""
LIVING = 20
PAGE = 20
SHARD = 2000
WANTED = 1000
"""Outputs that one job looks for."""
TEXT = "It has feathers and lays eggs, so it is a bird and no mammal. " * 8


@dataclass
class Load:
    """The servers, what a worker has of them, and the finished work so far."""

    system: BenchmarkSystem
    repeats: int
    finished: list[str] = field(default_factory=list)
    written: int = 0

    def __post_init__(self) -> None:
        redis = self.system.redis
        self.store = InventoriedS3Store(self.system.store_settings)
        self.deps = WorkerDeps(
            open_job_history(redis, self.store),
            open_event_history(redis, self.store),
            self.store,
            MemoryJobQueue(),
        )
        self.sweeper: Sweeper = make_sweeper(redis, self.store, RetentionSettings(ended_hours=0))
        self.cache = GenerationCache(
            self.store, MemoryGenerationBuffer(), teacher="teacher", sampling="sampling"
        )

    def create(self) -> Job:
        spec = JobSpec(model=BASE_MODEL, training_file="file-" + "0" * 24)
        job = Job(
            id=keys.new_id("ftjob"), spec=spec, status=JobStatus.QUEUED, created_at=time.time()
        )
        write_record(self.store, keys.job_spec_key(job.id), spec)
        self.deps.jobs.create(job)
        self.deps.events.append(job.id, "job created", once="created")
        return job

    def finish(self, count: int) -> None:
        """Run so many jobs to their end, and move them to their archive."""
        for _ in range(count):
            job = self.create()
            run_stage(self.deps, job.id, Stage.ASSEMBLING, do_nothing)
            self.finished.append(job.id)
        moved = list(self.sweeper.sweep_redis(time.time()))
        assert len(moved) == count, f"{len(moved)} of {count} jobs left Redis"

    def write_generations(self, total: int) -> None:
        while self.written < total:
            self.cache.add(map(make_generation, range(self.written, self.written + SHARD)))
            self.cache.flush()
            self.written += SHARD

    def measure_jobs(self) -> Iterator[tuple[str, float]]:
        deps, middle = self.deps, self.finished[len(self.finished) // 2]
        living = [self.create() for _ in range(LIVING)]
        yield "list, first page", self.time(lambda: deps.jobs.list(None, PAGE))
        yield "list, from its middle", self.time(lambda: deps.jobs.list(middle, PAGE))
        yield "a finished job", self.time(lambda: deps.jobs.get(middle))
        yield "its events", self.time(lambda: deps.events.read(middle))
        yield (
            "reaper round",
            self.time(lambda: reap_jobs(deps.jobs, deps.queue, time.time())),
        )
        yield "models, first page", self.time(lambda: list_models(self.store, None, PAGE))
        yield "claim", self.time_each(claim_one(deps, job.id) for job in living)
        for job in living:
            transition_job(deps.jobs, job.id, JobStatus.CANCELLED)
            deps.jobs.delete(job.id)
            deps.events.delete(job.id)

    def measure_generations(self) -> Iterator[tuple[str, float]]:
        step = self.written // WANTED
        spread = [make_key(number * step) for number in range(WANTED)]
        together = [make_key(number) for number in range(WANTED)]
        absent = [keys.digest("absent", str(number)) for number in range(WANTED)]
        for name, wanted, there in (
            ("find, none there", absent, 0),
            ("find, of one job's shards", together, WANTED),
            ("find, one in each thousandth", spread, WANTED),
        ):
            assert len(self.cache.find_many(wanted)) == there
            yield (
                f"{name} ({WANTED} keys)",
                self.time(
                    lambda keys=wanted: self.cache.find_many(keys), max(1, self.repeats // 10)
                ),
            )

    def time(self, call: Callable[[], object], repeats: int | None = None) -> float:
        return self.time_each(call for _ in range(repeats or self.repeats))

    def time_each(self, calls: Iterator[Callable[[], object]]) -> float:
        seconds = []
        for call in calls:
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
        return min(seconds)


def claim_one(deps: WorkerDeps, job_id: str) -> Callable[[], object]:
    def claim() -> object:
        claimed = claim_next_job(deps, job_id, Stage.ASSEMBLING)
        assert claimed is not None
        return claimed

    return claim


def do_nothing(stage: StageContext) -> JobDone:
    """A trainer that publishes a student at once."""
    job = stage.job
    model = PublishedModel(
        id=keys.make_model_id(job.id),
        job_id=job.id,
        created_at=time.time(),
        base=job.spec.model,
        files=(),
    )
    add_published_model(stage.store, model)
    write_record(stage.store, keys.model_manifest_key(model.id), model)
    counts = dict.fromkeys(RationaleCounts.model_fields, 0)
    report = Report(
        job_id=job.id,
        status=JobStatus.SUCCEEDED,
        test={},
        rationales=RationaleCounts.model_validate(counts),
        usage=job.usage,
        model=ModelRef(id=model.id),
        seconds={},
        seed=0,
    )
    return JobDone(report, {"model": model.id})


def make_key(number: int) -> str:
    return keys.digest("sample", str(number))


def make_generation(number: int) -> Generation:
    return Generation(
        key=make_key(number),
        index=0,
        text=TEXT,
        finish_reason="stop",
        prompt_tokens=100,
        completion_tokens=120,
        job_id="ftjob-" + "0" * 24,
    )


def get_peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(load: Load, jobs: int, outputs: int) -> dict[str, tuple[float, str]]:
    """What there is at this size: value and unit by name."""
    load.finish(jobs - len(load.finished))
    load.write_generations(outputs)
    memory = read_redis_memory(load.system.redis)
    timed = (*load.measure_jobs(), *load.measure_generations())
    return {
        **{name: (1000 * seconds, "ms") for name, seconds in timed},
        "Redis": (memory.used / 2**20, "MiB"),
        "peak memory of the worker": (get_peak_mib(), "MiB"),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="finished jobs at 100 units")
    parser.add_argument("--outputs", type=int, default=200_000, help="outputs at 100 units")
    parser.add_argument("--repeats", type=int, default=50, help="of each operation")
    options = parser.parse_args(argv)
    small, large = SIZES
    with tempfile.TemporaryDirectory() as folder, run_system(Path(folder) / "home") as system:
        load, started = Load(system, options.repeats), time.perf_counter()
        measure(load, options.jobs // large, options.outputs // large)  # it warms up
        before = measure(load, options.jobs * small // large, options.outputs * small // large)
        after = measure(load, options.jobs, options.outputs)
        print(f"{options.jobs:,} jobs and {load.written:,} outputs in ", end="")
        print(f"{time.perf_counter() - started:.0f} s")
    print(f"{'':38}{small:>10} units{large:>10} units    ratio")
    for name, (value, unit) in after.items():
        early = before[name][0]
        print(f"{name:38}{early:>10.2f} {unit:5}{value:>10.2f} {unit:5}{value / early:>9.2f}")


if __name__ == "__main__":
    main()
