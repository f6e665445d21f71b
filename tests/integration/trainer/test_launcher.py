"""The launcher as a container's process: its exit codes, and two machines with one rank each.

The machines are processes on loopback, with exactly the variables that Kubeflow Trainer's torch
policy sets beside what every pod of ours has.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kubernetes.client import ApiClient, Configuration

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.commands import claim_job
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import RedisSettings
from services.trainer.execution.cluster_api import ClusterApi
from services.trainer.execution.kubeflow import KubeflowExecutor
from services.trainer.execution.training_state import TrainingState
from services.trainer.settings import KubeflowSettings
from tests.conftest import free_ports
from tests.fakes import kubernetes as fake_kubernetes
from tests.fakes.kubernetes import FakeCluster
from tests.integration.site import Site, spec, when

PATIENCE = 240
MODULE = ("-m", "services.trainer.launch")


def wait_until(happens: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def nothing_left(site: Site) -> Iterator[None]:
    """What a test leaves to be tried again would be the next one that a worker takes, and its
    message would name a job that is gone."""
    yield
    for job in [*site.jobs.iter_active()]:
        site.jobs.delete(job.id)
    assert isinstance(site.deps.queue, MemoryJobQueue)
    site.deps.queue.drain()


def claim(site: Site, job_id: str) -> Job:
    job = claim_job(site.jobs, job_id, "test", stage=Stage.TRAINING, now=time.time(), ttl=600)
    assert job is not None
    return job


def launch(job: Job, **variables: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, *MODULE, job.id, str(job.lease.token)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def ranks_of(launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(launcher.pid).children()
    except psutil.NoSuchProcess:
        return []


def stop_once_it_trains(site: Site, job: Job, launcher: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: any("iteration 1," in message for message in site.messages(job.id)))
    launcher.terminate()


def test_the_launcher_ends_with_the_code_of_the_outcome(site: Site) -> None:
    """0 and 1 are those of the two machines below. All at once, as most of it is imports."""
    jobs = {
        "user": claim(site, site.submit(spec().model_copy(update={"model": "no-such-base"}))),
        "stopped": claim(site, site.submit(spec(iterations=500))),
        "transient": claim(site, site.submit(spec())),
    }
    nobody = {"QCRD_S3_ENDPOINT": f"127.0.0.1:{free_ports(1)[0]}"}
    launchers = {
        name: launch(job, **(nobody if name == "transient" else {})) for name, job in jobs.items()
    }
    try:
        stop_once_it_trains(site, jobs["stopped"], launchers["stopped"])
        codes = {name: launcher.wait(PATIENCE) for name, launcher in launchers.items()}
    finally:
        for launcher in launchers.values():
            launcher.kill()
    assert codes == {"user": 64, "stopped": 143, "transient": 75}
    redis = connect_redis(RedisSettings())
    told = {
        name: TrainingState(redis, job.id, job.lease.token).read_outcome()
        for name, job in jobs.items()
    }
    kinds = {name: None if outcome is None else outcome.kind for name, outcome in told.items()}
    assert kinds == {"user": "failed", "stopped": "stopped", "transient": "waiting"}


def handles_sigterm(launcher: subprocess.Popen[bytes]) -> bool:
    status = Path(f"/proc/{launcher.pid}/status").read_text()
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_a_launcher_that_waits_for_other_machines_ends_at_sigterm(
    site: Site, machines: Machines
) -> None:
    """The first machine never comes."""
    job = {"job": "ftjob-" + "0" * 24, "token": "1"}
    (launcher,) = machines.start_some([*MODULE, *job.values()], free_ports(1)[0], 2, [1])
    wait_until(lambda: handles_sigterm(launcher))
    launcher.terminate()
    assert launcher.wait(PATIENCE) == 143


def test_a_machine_that_is_cut_off_ends_by_itself(site: Site, machines: Machines) -> None:
    """The first one, which all of them meet at, does not answer and does not close a connection."""
    job = claim(site, site.submit(spec(iterations=500)))
    command = [*MODULE, job.id, str(job.lease.token)]
    first, second = machines.start_some(command, free_ports(1)[0], 2, range(2))
    wait_until(lambda: any("iteration 1," in message for message in site.messages(job.id)))
    silent = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for process in silent:
        process.suspend()
    try:
        assert second.wait(PATIENCE) == 1
    finally:
        for process in reversed(silent):
            process.kill()


class Machines:
    """What the pods of a TrainJob are here: a launcher each, with the torch policy's variables."""

    def __init__(self) -> None:
        self.launchers: list[subprocess.Popen[bytes]] = []

    def start(self, train_job: dict[str, Any]) -> None:
        trainer, nodes = train_job["spec"]["trainer"], train_job["spec"]["trainer"]["numNodes"]
        python, *command = [*trainer["command"], *trainer["args"]]
        assert python == "python"
        assert trainer["numProcPerNode"] == 1
        self.start_some(command, free_ports(1)[0], nodes, range(nodes))

    def start_some(
        self, command: list[str], port: int, nodes: int, ranks: Iterable[int]
    ) -> list[subprocess.Popen[bytes]]:
        for rank in ranks:
            policy = {
                "PET_NNODES": str(nodes),
                "PET_NPROC_PER_NODE": "1",
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
                "QCRD_RANK_LOST_SECONDS": "8",
            }
            self.launchers.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    env={**os.environ, **policy},
                    start_new_session=True,
                )
            )
        return self.launchers

    def stop(self, train_job: dict[str, Any]) -> None:
        for launcher in self.launchers:
            launcher.terminate()

    def wait(self) -> list[int]:
        return [launcher.wait(PATIENCE) for launcher in self.launchers]


@pytest.fixture
def machines() -> Iterator[Machines]:
    made = Machines()
    yield made
    for launcher in made.launchers:
        launcher.kill()
        launcher.wait()


@pytest.fixture
def executor(machines: Machines) -> Iterator[KubeflowExecutor]:
    cluster = FakeCluster(on_start=machines.start, on_stop=machines.stop)
    with fake_kubernetes.running(cluster) as url:
        yield KubeflowExecutor(
            ClusterApi(ApiClient(Configuration(host=url)), "qcrd"),
            connect_redis(RedisSettings()),
            KubeflowSettings(nodes=2),
            watcher="test",
            grace_seconds=60,
            poll_seconds=0.2,
        )


def test_two_machines_train_one_job(
    site: Site, executor: KubeflowExecutor, machines: Machines
) -> None:
    job = site.work_by(executor, site.submit(spec(iterations=1)))
    assert job.status is JobStatus.SUCCEEDED, job.failure
    assert job.model
    assert site.predictions(job.id)
    assert machines.wait() == [0, 0]


def test_a_killed_rank_ends_both_machines_with_the_reason(
    site: Site, executor: KubeflowExecutor, machines: Machines
) -> None:
    """It costs an attempt, and the next one goes on from the checkpoint."""
    job_id = site.submit(spec(iterations=500))

    def kill() -> None:
        for rank in ranks_of(machines.launchers[1]):
            rank.kill()

    killer = when(lambda: any("iteration 1," in m for m in site.messages(job_id)), kill)
    job = site.work_by(executor, job_id)
    killer.join()
    assert (job.status, job.attempt) == (JobStatus.RUNNING, 1)
    # By a connection that broke in a step, or outside of one by the silence.
    told = "another of the 2 ranks is gone|rank 1 of 2 has given no sign of life"
    assert any(re.search(told, message) for message in site.messages(job_id))
    assert machines.wait() == [1, 1]
