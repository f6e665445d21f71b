"""A job trained by two containers, as the two pods of a TrainJob: undisturbed, and with one of them
cut off, drained and killed.

The worker that makes the TrainJob is this process, on a fake API server; Redis, store, judge and
the containers that train are the stack's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes.client import ApiClient, Configuration

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.rationales import Prediction
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.settings import RedisSettings
from services.trainer.execution.cluster_api import ClusterApi
from services.trainer.execution.kubeflow import KubeflowExecutor
from services.trainer.settings import KubeflowSettings
from services.trainer.supervision.training_process import supervise_training
from tests.e2e.compose.stack import Stack, step, wait_for
from tests.fakes import kubernetes as fake_kubernetes
from tests.fakes.kubernetes import FakeCluster

pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(
        os.environ.get("QCRD_COMPOSE_LONG") != "1",
        reason="ten minutes: `make test-compose LONG=1`",
    ),
]
ITERATIONS = 4
RANK_LOST_SECONDS = 15
HARDENED = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--user", "10001:10001", "--tmpfs", "/tmp:size=2g,mode=1777", "--shm-size", "1g"),
)


class Nodes:
    """The containers of the TrainJob that runs: those of two pods, with the variables that Kubeflow
    Trainer's torch policy sets."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.network = f"{stack.project}_inside"
        self.names: list[str] = []
        self._starting = threading.Thread()

    def start(self, train_job: dict[str, Any]) -> None:
        """As a controller does, after the API server has answered."""
        trainer = train_job["spec"]["trainer"]
        self.names = [f"{train_job['metadata']['name']}-node-{n}" for n in range(2)]
        self._starting = threading.Thread(target=self._run, args=(trainer,))
        self._starting.start()

    def _run(self, trainer: dict[str, Any]) -> None:
        for rank, name in enumerate(self.names):
            self.stack.docker(
                *("run", "-d", "--name", name, "--network", self.network, *HARDENED),
                *self._list_volumes(),
                *self._list_variables(rank),
                *("qcrd-trainer", *trainer["command"], *trainer["args"]),
            )

    def _list_variables(self, rank: int) -> Iterator[str]:
        policy = {
            "PET_NNODES": "2",
            "PET_NPROC_PER_NODE": "1",
            "PET_NODE_RANK": str(rank),
            "PET_MASTER_ADDR": self.names[0],
            "PET_MASTER_PORT": "29400",
            "QCRD_RANK_LOST_SECONDS": str(RANK_LOST_SECONDS),
            "QCRD_CHECKPOINT_SECONDS": "1",
            "OMP_NUM_THREADS": "1",
        }
        given = self.stack.inspect("trainer", "{{range .Config.Env}}{{println .}}{{end}}").split()
        for variable in (*given, *(f"{name}={value}" for name, value in policy.items())):
            yield from ("-e", variable)

    def _list_volumes(self) -> Iterator[str]:
        for name, place in (("s3", "/secrets/s3"), ("redis", "/secrets/redis")):
            yield from ("-v", f"{self.stack.project}_{name}-secrets:{place}:ro")
        yield from ("-v", f"{self.stack.project}_hub:/hub")

    def stop(self, train_job: dict[str, Any]) -> None:
        """What a deleted TrainJob's pods get."""
        self._starting.join()
        for name in self.names:
            self.stack.docker("stop", "-t", "60", name, check=False)

    def wait(self) -> list[int]:
        self._starting.join()
        codes = [int(self.stack.docker("wait", name)) for name in self.names]
        self.remove()
        return codes

    def remove(self) -> None:
        for name in self.names:
            self.stack.docker("rm", "-f", name, check=False)
        self.names = []

    def cut_off(self) -> None:
        self.stack.docker("network", "disconnect", self.network, self.names[1])

    def drain(self) -> None:
        self.stack.docker("stop", "-t", "60", self.names[1])

    def kill(self) -> None:
        self.stack.docker("kill", self.names[1])


class Cluster:
    """The worker of a cluster: its jobs are trained by `nodes`."""

    def __init__(self, stack: Stack, nodes: Nodes, deps: WorkerDeps, make: Any) -> None:
        self.stack, self.nodes, self.deps, self.make = stack, nodes, deps, make

    def submit(self) -> str:
        job_id = self.stack.create(iterations=ITERATIONS)
        wait_for(lambda: self.deps.jobs.get(job_id).stage is Stage.TRAINING, "it may be trained")
        return job_id

    def train(self, job_id: str) -> Job:
        """One attempt."""
        executor = self.make()
        run_stage(
            self.deps,
            job_id,
            Stage.TRAINING,
            lambda stage: supervise_training(stage, executor, stall_seconds=600),
        )
        return self.deps.jobs.get(job_id)

    def has_begun(self, job_id: str) -> bool:
        return any("iteration 1," in message for message in self.stack.events(job_id))


@pytest.fixture(scope="module")
def cluster(stack: Stack) -> Iterator[Cluster]:
    stack.compose("stop", "trainer")
    address = stack.inspect("redis", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    url = stack.compose("exec", "-T", "api", "cat", "/secrets/redis/QCRD_REDIS_URL")
    redis = connect_redis(RedisSettings(url=url.replace("@redis:", f"@{address}:")))
    deps = WorkerDeps(RedisJobStore(redis), RedisEventLog(redis), stack.store(), MemoryJobQueue())
    nodes = Nodes(stack)
    fake = FakeCluster(on_start=nodes.start, on_stop=nodes.stop)
    with fake_kubernetes.running(fake) as server:

        def make() -> KubeflowExecutor:
            return KubeflowExecutor(
                ClusterApi(ApiClient(Configuration(host=server)), "qcrd"),
                redis,
                KubeflowSettings(nodes=2),
                watcher="test",
                grace_seconds=60,
                poll_seconds=0.5,
            )

        yield Cluster(stack, nodes, deps, make)
    nodes.remove()
    stack.compose("start", "trainer")


@pytest.fixture(scope="module")
def calm(cluster: Cluster) -> list[Prediction]:
    with step("a job on two nodes, undisturbed"):
        job = cluster.train(cluster.submit())
    assert job.status is JobStatus.SUCCEEDED, job.failure
    assert cluster.nodes.wait() == [0, 0]
    return cluster.stack.predictions(job.id)


FAULTS: dict[str, tuple[Callable[[Nodes], None], int]] = {
    "cut off": (Nodes.cut_off, 1),
    "drained": (Nodes.drain, 0),
    "killed": (Nodes.kill, 1),
}
"""What befalls the second node, and the attempts that it costs."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_node_that_goes_costs_no_result(
    cluster: Cluster, calm: list[Prediction], fault: str
) -> None:
    befall, attempts = FAULTS[fault]
    with step(f"a job on two nodes, one of them {fault}"):
        job_id = cluster.submit()

        def wait_and_befall() -> None:
            wait_for(lambda: cluster.has_begun(job_id), "it trains")
            befall(cluster.nodes)

        thread = threading.Thread(target=wait_and_befall)
        thread.start()
        job = cluster.train(job_id)
        thread.join()
        assert (job.status, job.attempt) == (JobStatus.RUNNING, attempts)
        cluster.nodes.wait()
        job = cluster.train(job_id)
        assert job.status is JobStatus.SUCCEEDED, job.failure
        assert cluster.nodes.wait() == [0, 0]
    assert any("resumed after step" in message for message in cluster.stack.events(job_id))
    assert cluster.stack.predictions(job_id) == calm
