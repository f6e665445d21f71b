"""No key keeps the others from what a gateway does: each has its share, and is told when it is used
up."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from anyio import CapacityLimiter
from starlette.types import Message

from qcrd.errors import TooMany
from qcrd.records.api_keys import ApiKey, ApiKeyScope
from qcrd.runtime.storage.store import MemoryStore
from services.api.dependencies import get_service
from services.api.files.upload import UploadService
from services.api.http.access.shares import GatewayShares, KeyShare
from tests.unit.api.gateway_client import Here, refused, sums

BOUNDARY = b"edge"
FORM = (
    b'--edge\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    b'--edge\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    b'{"question": "What is 1 + 1?", "label": "2"}\n\r\n--edge--\r\n'
)


def make_key(name: str) -> ApiKey:
    return ApiKey(name=name, sha256="0" * 64, scopes=tuple(ApiKeyScope))


class Client:
    """An upload whose body comes when `go` is set."""

    def __init__(self, service: UploadService, owner: str, go: anyio.Event) -> None:
        self._service, self._owner, self._go = service, owner, go
        self.began = anyio.Event()

    async def receive(self) -> Message:
        self.began.set()
        await self._go.wait()
        return {"type": "http.request", "body": FORM, "more_body": False}

    async def upload(self) -> str:
        stored = await self._service.receive_file(
            MemoryStore(),
            self.receive,
            BOUNDARY,
            limit=1 << 20,
            owner=self._owner,
            check_digest=lambda sha256: None,
        )
        return stored.owner


def test_slow_uploads_of_one_key_leave_others_a_way() -> None:
    async def run() -> None:
        service = UploadService(CapacityLimiter(4), max_per_key=3, wait_seconds=0.2)
        never, now = anyio.Event(), anyio.Event()
        now.set()
        async with anyio.create_task_group() as group:
            slow = [Client(service, "slow", never) for _ in range(3)]
            for client in slow:
                group.start_soon(client.upload)
            for client in slow:
                await client.began.wait()
            assert await Client(service, "other", now).upload() == "other"
            with pytest.raises(TooMany, match="key slow has at most 3") as refusal:
                await Client(service, "slow", now).upload()
            assert refusal.value.retry_after == 0.2
            never.set()
        assert await Client(service, "slow", now).upload() == "slow"

    anyio.run(run)


def test_an_upload_that_waits_gets_its_turn() -> None:
    async def run() -> None:
        service = UploadService(CapacityLimiter(1), max_per_key=1, wait_seconds=60.0)
        go, now = anyio.Event(), anyio.Event()
        now.set()
        async with anyio.create_task_group() as group:
            first = Client(service, "a", go)
            group.start_soon(first.upload)
            await first.began.wait()
            second, third = Client(service, "a", now), Client(service, "b", now)
            group.start_soon(second.upload)
            group.start_soon(third.upload)
            go.set()

    anyio.run(run)


def test_a_share_is_a_keys_own_and_comes_back() -> None:
    share = KeyShare("things", 2, retry_seconds=3.0)
    a, b = make_key("a"), make_key("b")
    with share.hold(a), share.hold(a), share.hold(b):
        with pytest.raises(TooMany, match="key a has 2 things at once here") as refusal:
            share.acquire(a)
        assert refusal.value.retry_after == 3.0
    with share.hold(a), share.hold(a):
        pass


def test_checks_above_the_share_are_429_with_retry_after(here: Here) -> None:
    training = here.file(sums(4))
    share = get_service(here.app, GatewayShares).validations
    anonymous = here.jobs.get(here.create(training).json()["id"]).owner
    for _ in range(share.limit):
        share.acquire(make_key(anonymous))
    answer = here.create(training, seed=1)
    refused(answer, 429, "share_exceeded")
    assert answer.headers["retry-after"] == "2"
    estimate = here.client.post(
        "/v1/fine_tuning/jobs/estimate", json={"model": "tiny", "training_file": training}
    )
    refused(estimate, 429, "share_exceeded")
    share.release(make_key(anonymous))
    assert here.create(training, seed=1).status_code == 200


def test_a_stream_gives_its_share_back_at_its_end(tmp_path: Path, here: Here) -> None:
    job = here.create(here.file(sums(4))).json()["id"]
    here.client.post(f"/v1/fine_tuning/jobs/{job}/cancel")
    share = get_service(here.app, GatewayShares).streams
    key = make_key(here.jobs.get(job).owner)
    for _ in range(share.limit - 1):
        share.acquire(key)
    for _ in range(3):
        with here.client.stream("GET", f"/v1/fine_tuning/jobs/{job}/events?stream=true") as stream:
            assert stream.status_code == 200
            stream.read()
    share.acquire(key)
    refused(
        here.client.get(f"/v1/fine_tuning/jobs/{job}/events?stream=true"), 429, "share_exceeded"
    )
