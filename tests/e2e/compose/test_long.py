"""Faults and operators, each while a job uses the part; every job predicts what a calm one does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcrd.records.rationales import Prediction
from tests.e2e.compose.conftest import require_docker
from tests.e2e.compose.stack import Stack, step, wait_for

pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(
        os.environ.get("QCRD_COMPOSE_LONG") != "1",
        reason="half an hour: `make test-compose LONG=1`",
    ),
]
SERVICES = (
    "redis",
    "minio",
    "teacher",
    "students",
    "discriminator",
    "trainer",
    "api",
    "api-worker",
)


@pytest.fixture(scope="module")
def calm(stack: Stack) -> list[Prediction]:
    """Teacher and assembler are killed in the first job, whose outputs the later ones reuse."""
    with step("a job, teacher and api-worker killed while outputs are generated"):
        job_id = stack.create()
        stack.wait_for_stage(job_id, "assembling")
        wait_for(lambda: stack.job(job_id)["progress"]["step"] > 0, "the teacher is asked")
        stack.kill("teacher")
        stack.wait_healthy("teacher")
        stack.kill("api-worker")
        disturbed = stack.ended(job_id)
    with step("a job, undisturbed"):
        calm = stack.ended(stack.create())
    assert disturbed == calm
    return calm


@pytest.mark.parametrize("service", ["redis", "minio", "discriminator", "trainer", "api"])
def test_killed_in_training(stack: Stack, calm: list[Prediction], service: str) -> None:
    with step(f"a job, {service} killed in training"):
        job_id = stack.create()
        stack.wait_for_stage(job_id, "training", 1.0)
        stack.kill(service)
        assert stack.ended(job_id) == calm
    stack.wait_healthy(service)


def test_killed_students_serve_again(stack: Stack, calm: list[Prediction]) -> None:
    model = stack.request("GET", "/v1/models")["data"][0]["id"]
    stack.kill("students")
    stack.wait_healthy("students")
    question = {"role": "user", "content": "What kind of thing is a trout?"}
    answer = stack.request(
        "POST", "/v1/chat/completions", json={"model": model, "messages": [question]}
    )
    assert answer["choices"][0]["message"]["content"]


def test_redis_paused_for_20_seconds(stack: Stack, calm: list[Prediction]) -> None:
    with step("a job, redis paused for 20 s"):
        job_id = stack.create()
        stack.wait_for_stage(job_id, "training", 1.0)
        stack.pause("redis")
        time.sleep(20)
        stack.compose("unpause", "redis")
        assert stack.ended(job_id) == calm


def test_trainer_cut_off_for_30_seconds(stack: Stack, calm: list[Prediction]) -> None:
    with step("a job, its trainer without a network for 30 s"):
        job_id = stack.create()
        stack.wait_for_stage(job_id, "training", 1.0)
        trainer = stack.container("trainer")
        networks = [f"{stack.project}_{name}" for name in ("inside", "outside")]
        for network in networks:
            stack.docker("network", "disconnect", network, trainer)
        time.sleep(30)
        for network in networks:
            stack.docker("network", "connect", network, trainer)
        assert stack.ended(job_id) == calm


def test_two_trainers_share_the_jobs(stack: Stack, calm: list[Prediction]) -> None:
    """Both take one, and each is asked by its own health check."""
    with step("two jobs on two trainers"):
        stack.up("--no-recreate", "--scale", "trainer=2")
        ids = [stack.create(), stack.create()]
        for job_id in ids:
            stack.wait_for_stage(job_id, "training")
        assert [stack.ended(job_id) for job_id in ids] == [calm, calm]
        stack.up("--no-recreate", "--scale", "trainer=1")


def test_training_over_its_memory_limit_is_told(stack: Stack, calm: list[Prediction]) -> None:
    """Its steps are then computed in parts, which rounds otherwise: it has to succeed. The limit is
    lowered before it trains: an engine lowers none below what is in use."""
    limit = stack.inspect("trainer", "{{.HostConfig.Memory}}")
    with step("a job, its trainer's memory lowered to 400 MB"):
        stack.compose("restart", "trainer")
        trainer = stack.container("trainer")
        stack.docker("update", "--memory", "400m", "--memory-swap", "400m", trainer)
        job_id = stack.create()
        wait_for(
            lambda: any("memory" in event for event in stack.events(job_id)),
            "an event tells of the memory",
        )
        stack.docker("update", "--memory", limit, "--memory-swap", limit, trainer)
        assert len(stack.ended(job_id)) == len(calm)


def test_rotated_keys_make_jobs_wait_and_are_named(stack: Stack, calm: list[Prediction]) -> None:
    with step("a job, the store's key rotated"):
        job_id = stack.create()
        stack.wait_for_stage(job_id, "training", 1.0)
        stack.compose("run", "--rm", "-e", "QCRD_S3_SECRET_KEY=rotated-key-0123456789", "secrets")
        stack.compose("restart", "minio")
        told = wait_for(lambda: refused(stack), "/ready names the refusal")
        assert "QCRD_S3_ACCESS_KEY" in told
        wait_for(lambda: stack.job(job_id)["waiting"], "the job waits")
        assert stack.job(job_id)["status"] == "running"
        stack.compose("restart", *("api", "api-worker", "discriminator", "trainer", "students"))
        assert stack.ended(job_id) == calm


def refused(stack: Stack) -> str | None:
    status, ready = stack.readiness()
    return ready["store"] if status == 503 and "refuses" in ready.get("store", "") else None


def test_down_and_up_again_all_is_there(stack: Stack, calm: list[Prediction]) -> None:
    def listed() -> tuple[list[str], list[str], list[str]]:
        jobs = stack.request("GET", "/v1/fine_tuning/jobs?limit=100")["data"]
        models = stack.request("GET", "/v1/models")["data"]
        first = jobs[-1]["id"]
        return [job["id"] for job in jobs], [m["id"] for m in models], stack.events(first)

    with step("down and up"):
        before, key = listed(), stack.key()
        stack.down()
        stack.up()
        assert (listed(), stack.key()) == (before, key)
        assert stack.predictions(before[0][0]) == calm


def test_with_a_hub_its_bases_are_fetched_and_ours_are_as_before(
    stack: Stack, calm: list[Prediction]
) -> None:
    """One that says, as the real one does, that it knows no `all-MiniLM-L6-v2`."""
    online = Stack(stack.project, Path(__file__).with_name("hub.yaml"))
    with step("up again, with a hub"):
        online.up()
    with step("a job of a base that the hub has not, and one of a base that it has"):
        assert online.ended(online.create()) == calm
        assert len(online.ended(online.create(model="acme/tiny-bert"))) == len(calm)
    asked = online.compose("logs", "--no-color", "hub")
    assert "/acme/tiny-bert/resolve/" in asked
    online.compose("rm", "--stop", "--force", "hub")
    stack.up()


@pytest.fixture
def small_volume(stack: Stack) -> Iterator[Stack]:
    """A second project, whose Redis has 24 MB of disk, held by a container that does nothing."""
    require_docker()
    other = Stack("qcrd-full", Path(__file__).with_name("full.yaml"), api_port=18100)
    stack.compose("stop")
    other.down("-v")
    try:
        other.up()
        yield other
    finally:
        other.down("-v")


def test_a_full_disk_of_redis_makes_jobs_wait(small_volume: Stack) -> None:
    """It ends itself when it cannot append, and is started again and again until there is room."""
    stack = small_volume
    with step("a job, the disk of redis full"):
        job_id = stack.create()
        stack.wait_for_stage(job_id, "assembling")
        wait_for(lambda: stack.job(job_id)["progress"]["step"] > 0, "the teacher is asked")
        stack.compose("exec", "-T", "holder", "sh", "-c", "cat /dev/zero >/data/full || true")
        wait_for(lambda: stack.readiness()[1].get("redis", "ok") != "ok", "/ready names Redis")
        stack.compose("exec", "-T", "holder", "rm", "/data/full")
        disturbed = stack.ended(job_id)
        assert stack.ended(stack.create()) == disturbed
