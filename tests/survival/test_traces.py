"""What a job leaves in the logs of every process that worked on it: its id, the id of the request
that created it, and no secret."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.storage.store import read_object
from tests.secrets import dumped, found_in
from tests.survival.stack.runs import CALM_REQUEST, Calm
from tests.survival.stack.system import TEACHER_KEY, System

SERVICES = {"api", "api-worker", "trainer", "training"}


def lines(system: System) -> Iterator[dict[str, Any]]:
    for part in system.parts.values():
        if part.starts:
            for line in part.log.read_text(errors="replace").splitlines():
                if line.startswith("{"):
                    yield json.loads(line)


def test_every_process_of_a_job_logs_its_id_and_its_request_and_none_a_secret(
    system: System, calm: Calm
) -> None:
    requests: dict[str, set[str | None]] = defaultdict(set)
    for line in lines(system):
        if line.get("job_id") == calm.id or line.get("request_id") == CALM_REQUEST:
            requests[line["service"]].add(line.get("request_id"))
    assert {service: requests[service] for service in SERVICES} == {
        service: {CALM_REQUEST} for service in SERVICES
    }

    secrets = [TEACHER_KEY, system.store_settings.secret_key.get_secret_value()]
    logs = {p.name: p.log.read_bytes() for p in system.parts.values() if p.starts}
    stored = {key: read_object(system.store, key) for key in system.store.list("jobs/")}
    kept = dumped(connect_redis(system.redis_settings))
    for place, content in {**logs, **stored, **kept}.items():
        assert found_in(content, secrets) == [], place
