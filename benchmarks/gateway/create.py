"""Many clients that create jobs at once, each with an `Idempotency-Key`, some of them twice.

Afterwards the list of jobs is read to its end: what clients were told and what is there must agree.
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

from benchmarks.gateway.monitor import asking_health, p50, p99
from benchmarks.gateway.system import BASE

TWICE, AGAIN = 10, 5
"""Of every ten jobs one is asked for by two requests at once, and another a second time later."""
IDLE_SECONDS, ALONE = 2.0, 20
QUESTIONS = 20
JOBS = "/v1/fine_tuning/jobs"


@dataclass
class Created:
    """`ids`: what clients were told, by `Idempotency-Key`. `seconds` of requests that made a job,
    not of those that were answered with one that was there."""

    ids: dict[str, set[str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    replayed: int = 0
    wall: float = 0.0

    @property
    def server_errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)


def training_file(url: str, salt: str) -> str:
    """The id of a small one."""
    lines = [
        json.dumps({"question": f"What is {number} + 1{salt}?", "label": str(number + 1)})
        for number in range(QUESTIONS)
    ]
    sent = {"file": ("train.jsonl", "\n".join(lines).encode())}
    answer = httpx2.post(
        f"{url}/v1/files", files=sent, data={"purpose": "fine-tune"}, trust_env=False, timeout=60
    )
    return str(answer.raise_for_status().json()["id"])


def spec(file_id: str) -> dict[str, Any]:
    method = {"type": "dss", "dss": {"task": {"answer": "number"}}}
    return {"model": BASE, "training_file": file_id, "method": method}


def create(urls: Sequence[str], body: dict[str, Any], *, jobs: int, clients: int) -> Created:
    """`jobs` jobs by `clients` clients at once, which take the gateways at `urls` in turn."""
    found = Created()
    names = [f"{uuid4()}-{number}" for number in range(jobs)]
    began = time.perf_counter()
    asyncio.run(_clients(urls, body, names, clients, found))
    found.wall = time.perf_counter() - began
    return found


async def _clients(
    urls: Sequence[str], body: dict[str, Any], names: Sequence[str], clients: int, found: Created
) -> None:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    left = iter(enumerate(names))
    async with (
        httpx2.AsyncClient(timeout=120, limits=limits, trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):

        async def one() -> None:
            for number, name in left:
                first, second = (f"{urls[(number + n) % len(urls)]}{JOBS}" for n in (0, 1))
                if number % TWICE == 0:
                    group.create_task(_post(client, second, name, body, found))
                await _post(client, first, name, body, found)
                if number % TWICE == AGAIN:
                    await _post(client, second, name, body, found)

        for _ in range(clients):
            group.create_task(one())


async def _post(
    client: httpx2.AsyncClient, url: str, name: str, body: dict[str, Any], found: Created
) -> None:
    """As clients do, it asks again while the first request with its key is being answered."""
    while True:
        began = time.perf_counter()
        answer = await client.post(url, json=body, headers={"Idempotency-Key": name})
        seconds = time.perf_counter() - began
        found.statuses[answer.status_code] += 1
        if answer.status_code != 409:
            break
        await asyncio.sleep(float(answer.headers["retry-after"]))
    if answer.status_code != 200:
        return
    found.ids.setdefault(name, set()).add(answer.json()["id"])
    if "idempotent-replayed" in answer.headers:
        found.replayed += 1
    else:
        found.seconds.append(seconds)


async def _health(url: str, requests: int, clients: int) -> list[float]:
    """Seconds of each, asked by the same clients in the same way as they create jobs."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    seconds: list[float] = []
    left = iter(range(requests))
    async with httpx2.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:

        async def one() -> None:
            for _ in left:
                began = time.perf_counter()
                (await client.get(f"{url}/health")).raise_for_status()
                seconds.append(time.perf_counter() - began)

        await asyncio.gather(*(one() for _ in range(clients)))
    return seconds


def listed(url: str) -> list[str]:
    """The ids of all jobs, by pages to the end."""
    ids: list[str] = []
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        more = True
        while more:
            query: dict[str, Any] = {"limit": 100, **({"after": ids[-1]} if ids else {})}
            page = client.get(JOBS, params=query).raise_for_status().json()
            ids += [job["id"] for job in page["data"]]
            more = page["has_more"]
    return ids


def compared(
    found: Created, jobs: int, before: Sequence[str], after: Sequence[str]
) -> dict[str, float]:
    """`lost`: jobs nobody was told of or that are not listed. `doubled`: listed beyond what was
    asked for, or more than one under a key."""
    told = set().union(*found.ids.values())
    new = Counter(after) - Counter(before)
    return {
        "lost": jobs - sum(bool(ids & new.keys()) for ids in found.ids.values()),
        "doubled": new.total() - len(told & new.keys())
        + sum(len(ids) - 1 for ids in found.ids.values()),
    }  # fmt: skip


def measure(urls: Sequence[str], *, jobs: int, clients: int) -> dict[str, float]:
    """One round; times in milliseconds. `health` is asked by one client of its own meanwhile, when
    idle by the same, and crowded by as many clients as create the jobs, after them.
    """
    body = spec(training_file(urls[0], f" {uuid4()}"))
    for url in urls:
        create([url], body, jobs=2 * clients, clients=clients)  # threads, connections, verdicts
    alone = create(urls[:1], body, jobs=ALONE, clients=1)
    with asking_health(urls[0]) as idle:
        time.sleep(IDLE_SECONDS)
    before = listed(urls[0])
    with asking_health(urls[0]) as asked:
        found = create(urls, body, jobs=jobs, clients=clients)
    crowded = asyncio.run(_health(urls[0], jobs, clients))
    return {
        **compared(found, jobs, before, listed(urls[0])),
        "server_errors": found.server_errors,
        "p99_over_health_p50": p99(found.seconds) / p50(asked.seconds),
        "p99_over_crowded_health_p50": p99(found.seconds) / p50(crowded),
        "p50_ms": p50(found.seconds),
        "p99_ms": p99(found.seconds),
        "alone_p50_ms": p50(alone.seconds),
        "jobs_per_second": jobs / found.wall,
        "replayed": found.replayed,
        "told_to_wait": found.statuses[409],
        "health_p50_ms": p50(asked.seconds),
        "health_p99_ms": p99(asked.seconds),
        "health_idle_p50_ms": p50(idle.seconds),
        "health_crowded_p50_ms": p50(crowded),
    }
