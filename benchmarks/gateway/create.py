"""Many clients create jobs at once, each with an `Idempotency-Key`, some of them twice.

Afterwards the list of jobs is read to its end: it must agree with the responses.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2

from benchmarks.gateway.monitor import median_ms, percentile_99_ms, poll_health
from benchmarks.gateway.system import BASE_MODEL

DUPLICATE_EVERY, REPEAT_AT = 10, 5
"""Of ten jobs, one is created by two concurrent requests, and another is requested again later."""
IDLE_SECONDS, IDLE_JOBS = 2.0, 20
QUESTIONS = 20
JOBS = "/v1/fine_tuning/jobs"


@dataclass
class CreateResults:
    """`ids`: the responses' job ids, by `Idempotency-Key`. `seconds` of requests that created a
    job, without those that returned an existing one."""

    ids: dict[str, set[str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    replayed: int = 0
    wall: float = 0.0

    @property
    def server_errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)


def upload_training_file(url: str, salt: str) -> str:
    """Upload a small file and return its id."""
    lines = [
        json.dumps({"question": f"What is {number} + 1{salt}?", "label": str(number + 1)})
        for number in range(QUESTIONS)
    ]
    files = {"file": ("train.jsonl", "\n".join(lines).encode())}
    response = httpx2.post(
        f"{url}/v1/files", files=files, data={"purpose": "fine-tune"}, trust_env=False, timeout=60
    )
    return str(response.raise_for_status().json()["id"])


def make_job_body(file_id: str) -> dict[str, Any]:
    method = {"type": "dss", "dss": {"task": {"answer": "number"}}}
    return {"model": BASE_MODEL, "training_file": file_id, "method": method}


def create_jobs(
    urls: Sequence[str], body: dict[str, Any], *, jobs: int, clients: int
) -> CreateResults:
    """Create `jobs` jobs by `clients` concurrent clients, using the gateways at `urls` in turn."""
    results = CreateResults()
    names = [f"{uuid4()}-{number}" for number in range(jobs)]
    started_at = time.perf_counter()
    asyncio.run(_run_clients(urls, body, names, clients, results))
    results.wall = time.perf_counter() - started_at
    return results


async def _run_clients(
    urls: Sequence[str],
    body: dict[str, Any],
    names: Sequence[str],
    clients: int,
    results: CreateResults,
) -> None:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    pending = iter(enumerate(names))
    async with (
        httpx2.AsyncClient(timeout=120, limits=limits, trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):

        async def run_client() -> None:
            for number, name in pending:
                first, second = (f"{urls[(number + n) % len(urls)]}{JOBS}" for n in (0, 1))
                if number % DUPLICATE_EVERY == 0:
                    group.create_task(_post_job(client, second, name, body, results))
                await _post_job(client, first, name, body, results)
                if number % DUPLICATE_EVERY == REPEAT_AT:
                    await _post_job(client, second, name, body, results)

        for _ in range(clients):
            group.create_task(run_client())


async def _post_job(
    client: httpx2.AsyncClient, url: str, name: str, body: dict[str, Any], results: CreateResults
) -> None:
    """Retry, as clients do, while the first request with the same key is in progress."""
    while True:
        started_at = time.perf_counter()
        response = await client.post(url, json=body, headers={"Idempotency-Key": name})
        seconds = time.perf_counter() - started_at
        results.statuses[response.status_code] += 1
        if response.status_code != 409:
            break
        await asyncio.sleep(float(response.headers["retry-after"]))
    if response.status_code != 200:
        return
    results.ids.setdefault(name, set()).add(response.json()["id"])
    if "idempotent-replayed" in response.headers:
        results.replayed += 1
    else:
        results.seconds.append(seconds)


async def _measure_health(url: str, requests: int, clients: int) -> list[float]:
    """Seconds per request to `/health`, sent by the same clients in the same way."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    seconds: list[float] = []
    pending = iter(range(requests))
    async with httpx2.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:

        async def run_client() -> None:
            for _ in pending:
                started_at = time.perf_counter()
                (await client.get(f"{url}/health")).raise_for_status()
                seconds.append(time.perf_counter() - started_at)

        await asyncio.gather(*(run_client() for _ in range(clients)))
    return seconds


def list_job_ids(url: str) -> list[str]:
    """The ids of all jobs, read page by page."""
    ids: list[str] = []
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        more = True
        while more:
            query: dict[str, Any] = {"limit": 100, **({"after": ids[-1]} if ids else {})}
            page = client.get(JOBS, params=query).raise_for_status().json()
            ids += [job["id"] for job in page["data"]]
            more = page["has_more"]
    return ids


def compare_ids(
    results: CreateResults, jobs: int, before: Sequence[str], after: Sequence[str]
) -> dict[str, float]:
    """`lost`: jobs without a response or not listed. `doubled`: jobs that were listed but not
    requested, or several under one key."""
    reported = set().union(*results.ids.values())
    new = Counter(after) - Counter(before)
    return {
        "lost": jobs - sum(bool(ids & new.keys()) for ids in results.ids.values()),
        "doubled": new.total() - len(reported & new.keys())
        + sum(len(ids) - 1 for ids in results.ids.values()),
    }  # fmt: skip


def measure(
    urls: Sequence[str],
    *,
    jobs: int,
    clients: int,
    idle_jobs: int = IDLE_JOBS,
    idle_seconds: float = IDLE_SECONDS,
) -> dict[str, float]:
    """One round; times in milliseconds. `health` is polled by one extra client under load and
    when idle; crowded, by as many clients as create the jobs, after them.
    """
    body = make_job_body(upload_training_file(urls[0], f" {uuid4()}"))
    for url in urls:
        create_jobs(
            [url], body, jobs=2 * clients, clients=clients
        )  # threads, connections, verdicts
    idle_results = create_jobs(urls[:1], body, jobs=idle_jobs, clients=1)
    with poll_health(urls[0]) as idle:
        time.sleep(idle_seconds)
    before = list_job_ids(urls[0])
    with poll_health(urls[0]) as health:
        results = create_jobs(urls, body, jobs=jobs, clients=clients)
    crowded = asyncio.run(_measure_health(urls[0], jobs, clients))
    return {
        **compare_ids(results, jobs, before, list_job_ids(urls[0])),
        "server_errors": results.server_errors,
        "p99_over_health_p50": percentile_99_ms(results.seconds) / median_ms(health.seconds),
        "p99_over_crowded_health_p50": percentile_99_ms(results.seconds) / median_ms(crowded),
        "p50_ms": median_ms(results.seconds),
        "p99_ms": percentile_99_ms(results.seconds),
        "alone_p50_ms": median_ms(idle_results.seconds),
        "jobs_per_second": jobs / results.wall,
        "replayed": results.replayed,
        "told_to_wait": results.statuses[409],
        "health_p50_ms": median_ms(health.seconds),
        "health_p99_ms": percentile_99_ms(health.seconds),
        "health_idle_p50_ms": median_ms(idle.seconds),
        "health_crowded_p50_ms": median_ms(crowded),
    }
