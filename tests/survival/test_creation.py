"""A client that creates a job while the gateway is killed, and asks until it has an answer."""

from __future__ import annotations

import random
import threading
import time

import httpx2

from tests.survival.stack.runs import Calm, Data, Run, asked_for, check, followed
from tests.survival.stack.system import System, until

CREATING_SECONDS = 0.2
"""Longer than a creation takes, so that some kills come after it."""


def test_a_job_created_under_a_kill_is_created_once(
    system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    room, body = asked_for(data)
    headers = {"Idempotency-Key": f"key-{rng.getrandbits(64):x}"}
    found: list[str] = []

    def create() -> bool:
        try:
            answer = httpx2.post(
                f"{system.url()}/v1/fine_tuning/jobs", json=body, headers=headers, timeout=30
            )
        except httpx2.TransportError:
            return False
        if answer.status_code == 200:
            found.append(answer.json()["id"])
        assert answer.status_code in (200, 409, 503), answer.text
        return answer.status_code == 200

    created = time.time()
    client = threading.Thread(target=create)
    client.start()
    time.sleep(rng.uniform(0.0, CREATING_SECONDS))
    system.parts["gateway"].kill()
    killed = time.time()
    client.join()
    print(f"killed the gateway after {killed - created:.3f} s; the client had {found or 'nothing'}")
    until(create, system)
    run = Run(system, found[0], room, followed(system, found[0], rng), created, [killed])
    check(run, calm)
    assert set(found) == {run.id}
    alike = [
        job
        for job in system.jobs.list(None, 100)
        if job.spec.settings.rationales.max_new_tokens == room
    ]
    assert [job.id for job in alike] == [run.id]
    print(f"ended after {run.age():.1f} s")
