"""What a job leaves in the logs of every process that worked on it: its id, the id of the request
that created it, and no secret."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx2

from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.storage.store import read_object
from tests.secrets import dumped, found_in
from tests.survival.runs import Calm, Data, Run, asked_for, check, followed
from tests.survival.system import TEACHER_KEY, System

REQUEST = "req-of-the-traces"
SERVICES = {"api", "api-worker", "trainer", "training"}


def lines(system: System) -> Iterator[dict[str, Any]]:
    for part in system.parts.values():
        if part.starts:
            for line in part.log.read_text(errors="replace").splitlines():
                if line.startswith("{"):
                    yield json.loads(line)


def test_every_process_of_a_job_logs_its_id_and_its_request_and_none_a_secret(
    system: System, data: Data, calm: Calm
) -> None:
    room, given = asked_for(data)
    headers = {"x-request-id": REQUEST}
    url = f"{system.url()}/v1/fine_tuning/jobs"
    answer = httpx2.post(url, json=given, headers=headers, timeout=30).raise_for_status()
    assert answer.headers["x-request-id"] == REQUEST
    job_id = answer.json()["id"]
    run = Run(system, job_id, room, followed(system, job_id, random.Random(0)), calm.seconds)
    check(run, calm)

    requests: dict[str, set[str | None]] = defaultdict(set)
    for line in lines(system):
        if line.get("job_id") == job_id or line.get("request_id") == REQUEST:
            requests[line["service"]].add(line.get("request_id"))
    assert {service: requests[service] for service in SERVICES} == {
        service: {REQUEST} for service in SERVICES
    }

    secrets = [TEACHER_KEY, system.store_settings.secret_key.get_secret_value()]
    logs = {p.name: p.log.read_bytes() for p in system.parts.values() if p.starts}
    stored = {key: read_object(system.store, key) for key in system.store.list("jobs/")}
    kept = dumped(connect_redis(system.redis_settings))
    for place, content in {**logs, **stored, **kept}.items():
        assert found_in(content, secrets) == [], place
