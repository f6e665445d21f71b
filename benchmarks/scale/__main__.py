"""What a tenth and all of so many rationales take: the worker's peak memory, and seconds.

`set`: a generator writes a teacher's outputs into shards, and a worker finds them all and assembles
the set, which is then paged by a gateway's code and pulled as a trainer does. `through`: a worker
asks a teacher that answers at once for every one. `import`: they come in a file with the questions.
Each size is a process of its own. Valkey and SeaweedFS are real.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gateway.system import BASE_MODEL, BenchmarkSystem, run_system
from benchmarks.scale.quick_teacher import (
    ANSWER_TOKENS,
    PROMPT_TOKENS,
    make_output,
    make_question,
)
from benchmarks.scale.worker import Told
from qcrd.cli.stack.ports import find_free_port
from qcrd.records.job import Job, JobStatus
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.archive.open_history import open_job_history
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from qcrd.runtime.storage.store import write_record
from services.api.assembling.generation_cache import Generation, GenerationCache
from services.api.assembling.prompt_form import choose_prompt_form
from services.api.assembling.sampling_plan import SampleRequest, SamplingParams
from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.files import service as files
from services.api.jobs.job_prompts import iter_prompts
from services.api.settings import TeacherConfig

PARTS = ("set", "through", "import")
SAMPLES = 10
"""Rationales per question: a file has at most a million questions."""
SHARD = 2000
MOST_HELD = 1_000_000
"""Rationales up to which a training's memory is measured: more do not fit into a small machine."""
SHARE = 10
"""How much smaller the smaller of the two sizes is."""


@dataclass(frozen=True)
class Bench:
    system: BenchmarkSystem
    teacher: str

    def create_job(self, questions: int, first: int, *, imported: bool) -> JobSpec:
        def lines() -> Iterator[bytes]:
            for number in range(first, first + questions):
                row: dict[str, Any] = {
                    "question": make_question(number),
                    "label": str(number + 1),
                }
                if imported:
                    row["outputs"] = [make_output(number, way) for way in range(SAMPLES)]
                yield json.dumps(row).encode() + b"\n"

        store = self.system.store
        blob = files.write_blob(store, lines(), limit=1 << 40)
        file_id = files.publish_file(store, blob, filename="questions.jsonl").id
        rationales: dict[str, Any] = {"n": SAMPLES}
        if imported:
            rationales["import"] = file_id
        settings = {"task": {"answer": "number"}, "rationales": rationales}
        return JobSpec.model_validate(
            {
                "model": BASE_MODEL,
                "training_file": file_id,
                "method": "qcrd",
                "settings": settings,
            }
        )

    def submit(self, spec: JobSpec) -> str:
        job = Job(
            id=keys.new_id("ftjob"), spec=spec, status=JobStatus.QUEUED, created_at=time.time()
        )
        write_record(self.system.store, keys.job_spec_key(job.id), spec)
        open_job_history(self.system.redis, self.system.store).create(job)
        return job.id

    def write_generations(self, spec: JobSpec, first: int) -> None:
        """What the teacher would say, in shards as paid outputs are."""
        config, settings = TeacherConfig(url=self.teacher), spec.settings
        info = asyncio.run(_fetch_info(config))
        form = choose_prompt_form(settings.rationales, config, info)
        sampling = SamplingParams.from_spec(settings.rationales, form.style).fingerprint
        cache = GenerationCache(
            self.system.store,
            MemoryGenerationBuffer(),
            teacher=info.fingerprint,
            sampling=sampling,
        )
        waiting: list[Generation] = []
        for number, prompt in enumerate(iter_prompts(self.system.store, spec, form), first):
            for way in range(SAMPLES):
                waiting.append(_make_generation(SampleRequest(prompt.prompt, way), number))
            if len(waiting) >= SHARD:
                cache.add(waiting)
                cache.flush()
                waiting.clear()
        cache.add(waiting)
        cache.flush()

    def run(self, *arguments: str) -> Told:
        """A part of the work in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scale.worker", *arguments],
            env=self.system.settings,
            stdout=subprocess.PIPE,
            check=True,
        )
        told: Told = json.loads(done.stdout.splitlines()[-1])
        return told


async def _fetch_info(config: TeacherConfig) -> Any:
    client = make_teacher_client("default", config)
    try:
        return await client.fetch_info()
    finally:
        await client.close()


def _make_generation(sample: SampleRequest, number: int) -> Generation:
    return Generation(
        key=sample.key,
        index=sample.index,
        text=make_output(number, sample.index),
        finish_reason="eos_token",
        prompt_tokens=PROMPT_TOKENS,
        completion_tokens=ANSWER_TOKENS,
        job_id="ftjob-" + "0" * 24,
    )


def measure(bench: Bench, part: str, rationales: int, first: int) -> dict[str, float]:
    """Seconds, and peak memory in MiB, of each step, for questions that no other size has."""
    spec = bench.create_job(rationales // SAMPLES, first, imported=part == "import")
    found: dict[str, float] = {}
    if part == "set":
        started = time.perf_counter()
        bench.write_generations(spec, first)
        found["outputs written, s"] = time.perf_counter() - started
    job_id = bench.submit(spec)
    told = bench.run("assemble", job_id, bench.teacher)
    set_id = str(told["set"])
    found |= {
        "assembled, s": float(told["seconds"]),
        "worker's peak memory, MiB": float(told["peak_mib"]),
    }
    if part == "set":
        paged, pulled = bench.run("page", set_id), bench.run("pull", set_id)
        assert pulled["rationales"] == rationales
        found |= {
            "found in the list of sets, s": float(paged["found"]),
            "first page of a new gateway, s": float(paged["cold"]),
            "next page, s": float(paged["warm"]),
            "page at the end, s": float(paged["last"]),
            "paging process's peak memory, MiB": float(paged["peak_mib"]),
            "pulled, s": float(pulled["seconds"]),
            "pulling process's peak memory, MiB": float(pulled["peak_mib"]),
        }
    if part == "set" and rationales <= MOST_HELD:
        held = bench.run("hold", job_id)
        found["held by a training, MiB"] = float(held["taken_mib"])
    return found


@contextmanager
def run_teacher() -> Iterator[str]:
    port = find_free_port()
    teacher = subprocess.Popen([sys.executable, "-m", "benchmarks.scale.quick_teacher", str(port)])
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        teacher.terminate()
        teacher.wait(30)


def _wait_for(port: int) -> None:
    config, deadline = TeacherConfig(url=f"http://127.0.0.1:{port}"), time.monotonic() + 60
    while True:
        try:
            asyncio.run(_fetch_info(config))
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="by default all of them")
    parser.add_argument("--rationales", type=int, default=100_000, help="of the larger size")
    options = parser.parse_args(argv)
    sizes = (options.rationales // SHARE, options.rationales)
    with (
        tempfile.TemporaryDirectory() as folder,
        run_system(Path(folder) / "home") as system,
        run_teacher() as teacher,
    ):
        bench, first = Bench(system, teacher), 0
        for part in options.part or PARTS:
            results = []
            for size in sizes:
                results.append(measure(bench, part, size, first))
                first += size // SAMPLES
            print(f"{part + ', rationales':38}{sizes[0]:>14,}{sizes[1]:>14,}{'ratio':>9}")
            for name, early in results[0].items():
                if (late := results[1].get(name)) is None:
                    print(f"{name:38}{early:>14.2f}{'not run':>14}", flush=True)
                else:
                    print(f"{name:38}{early:>14.2f}{late:>14.2f}{late / early:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
