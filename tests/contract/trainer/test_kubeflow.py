"""Trainings as TrainJobs: the real client, the real Redis, a fake API server, no pods but scripted
ones."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from qcrd.errors import Transient
from qcrd.records.job import JobFailure, JobStatus
from qcrd.runtime.jobs.commands import transition_job
from qcrd.runtime.jobs.stage_context import JobDone, StageContext
from services.trainer.execution.adoption import Adopter
from services.trainer.execution.train_job import JOB_LABEL, QUEUE_LABEL
from services.trainer.supervision.process_outcome import Outcome
from services.trainer.supervision.training_process import supervise_training
from tests.contract.trainer.cluster_site import DONE, ID, NAME, Site, in_thread, wait_until
from tests.contract.trainer.conftest import read_permissions


def test_a_training_is_a_train_job_with_the_name_of_its_lease(site: Site) -> None:
    created: list[dict[str, Any]] = []

    def train(train_job: dict[str, Any]) -> None:
        created.append(train_job)
        site.state().write_outcome(DONE)

    site.cluster.on_start = train
    job = site.work(nodes=2)
    assert (job.status, job.model) == (JobStatus.SUCCEEDED, "model-1")
    (made,) = created
    assert made["metadata"]["name"] == NAME
    assert made["metadata"]["labels"] == {JOB_LABEL: ID, "qcrd.io/lease": "1"}
    assert made["spec"]["trainer"] == {
        "numNodes": 2,
        "numProcPerNode": 1,
        "command": ["python", "-m", "services.trainer.launch"],
        "args": [ID, "1"],
    }
    assert "deletionTimestamp" in site.cluster.train_jobs[NAME]["metadata"], "what is done goes"


def test_kueue_starts_it_and_the_job_says_that_it_waits(site: Site) -> None:
    site.cluster.on_start = lambda _: site.state().write_outcome(DONE)
    worker = in_thread(site.work, queue="gpus")
    wait_until(lambda: "Kueue's queue gpus" in (site.jobs.get(ID).waiting or ""))
    made = site.cluster.train_jobs[NAME]
    assert made["metadata"]["labels"][QUEUE_LABEL] == "gpus"
    assert made["spec"]["suspend"] is True
    why = "couldn't assign flavors to pod set node: insufficient quota for nvidia.com/gpu"
    site.cluster.refuse_quota(NAME, why)
    wait_until(lambda: (site.jobs.get(ID).waiting or "").endswith(f"queue gpus: {why}"))
    site.cluster.allowed = read_permissions() - {("list", "workloads")}
    wait_until(lambda: (site.jobs.get(ID).waiting or "").endswith("Kueue's queue gpus"))
    site.cluster.unsuspend(NAME)
    worker.join(60)
    assert site.jobs.get(ID).status is JobStatus.SUCCEEDED


def test_what_keeps_a_pod_from_a_node_is_the_reason_for_waiting(site: Site) -> None:
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    }
    site.cluster.put_pod(NAME, f"{NAME}-node-0-0-x", {"conditions": [unscheduled]})
    worker = in_thread(site.work)
    wait_until(lambda: "Insufficient nvidia.com/gpu" in (site.jobs.get(ID).waiting or ""))
    site.state().write_outcome(DONE)
    worker.join(60)


def test_one_that_is_there_already_is_taken_up(site: Site) -> None:
    """409: the answer to the request that made it was lost."""
    job = site.claimed()
    executor = site.executor()
    executor.start(job)
    site.redis.delete(f"qcrd:training:{ID}:1:started")  # the worker died before it could note it
    again = executor.start(job)
    assert site.cluster.requests.count("create trainjobs") == 2
    assert len(site.cluster.train_jobs) == 1
    assert executor.poll(again).state == "waiting"
    site.state().mark_progress()
    assert executor.poll(again).state == "running"


def test_a_restarted_worker_takes_up_the_training_of_the_one_that_died(site: Site) -> None:
    """Under the same lease, by its name: it costs no attempt and starts nothing."""
    job = site.claimed()
    site.executor().start(job)
    site.state().mark_progress()
    site.state().leave_watch()  # as if it had run out: the worker is gone

    def work(stage: StageContext) -> JobDone:
        return supervise_training(stage, site.executor())

    adopter = Adopter(site.deps, site.redis, "restarted", work)
    assert adopter.adopt() == [], "its worker may just have claimed it"
    (thread,) = adopter.adopt()
    assert adopter.adopt() == [], "somebody watches it now"
    wait_until(lambda: site.cluster.requests.count("get trainjobs") > 1)
    site.state().write_outcome(DONE)
    thread.join(60)
    after = site.jobs.get(ID)
    assert (after.status, after.attempt, after.lease.token) == (JobStatus.SUCCEEDED, 0, 1)
    assert list(site.cluster.train_jobs) == [NAME]
    assert site.cluster.requests.count("create trainjobs") == 1


def test_a_training_is_taken_up_while_the_cluster_refuses_everything(site: Site) -> None:
    """It trains; only the worker cannot look, and its lease is not given up for that."""
    job = site.claimed()
    site.executor().start(job)
    site.state().mark_progress()
    site.state().leave_watch()

    def work(stage: StageContext) -> JobDone:
        return supervise_training(stage, site.executor())

    adopter = Adopter(site.deps, site.redis, "restarted", work)
    adopter.adopt()
    site.cluster.allowed = set()
    (thread,) = adopter.adopt()
    wait_until(lambda: site.cluster.requests.count("get trainjobs") > 1)
    held = site.jobs.get(ID)
    assert (held.status, held.lease.token, bool(held.lease.owner)) == (JobStatus.RUNNING, 1, True)
    site.state().write_outcome(DONE)
    thread.join(60)
    assert site.jobs.get(ID).status is JobStatus.SUCCEEDED


def test_what_was_trained_under_a_lease_that_expired_is_not_trained_again(site: Site) -> None:
    """Every worker was away when it ended: the next lease finds it done."""
    site.executor().start(site.claimed())
    site.state().write_outcome(DONE)
    lapsed = site.jobs.get(ID).lease.model_copy(update={"until": 0.0})
    site.jobs.update(ID, lambda job: job.model_copy(update={"lease": lapsed}))
    after = site.work()
    assert (after.status, after.lease.token, after.model) == (JobStatus.SUCCEEDED, 2, "model-1")
    assert site.cluster.requests.count("create trainjobs") == 1


def test_an_outcome_that_nobody_saw_is_not_trained_for_again(site: Site) -> None:
    job = site.claimed()
    site.state().write_outcome(DONE)
    executor = site.executor()
    training = executor.start(job)
    assert executor.poll(training).state == "ended"
    assert executor.outcome(training) == DONE
    assert site.cluster.train_jobs == {}


def test_a_worker_that_ends_leaves_its_training_to_the_next_one(site: Site) -> None:
    stopping = threading.Event()
    deps = replace(site.deps, is_stopping=stopping.is_set)
    worker = in_thread(site.work, deps=deps)
    wait_until(lambda: NAME in site.cluster.train_jobs)
    stopping.set()
    worker.join(60)
    job = site.jobs.get(ID)
    assert (job.status, job.lease.token) == (JobStatus.RUNNING, 1)
    assert job.lease.owner, "the training has the lease"
    assert not site.state().is_watched(), "the next worker need not wait for that to run out"
    assert "deletionTimestamp" not in site.cluster.train_jobs[NAME]["metadata"]


def stop_tells(site: Site) -> list[str]:
    """Pods that save a checkpoint at SIGTERM and tell it."""
    stopped: list[str] = []

    def stop(train_job: dict[str, Any]) -> None:
        stopped.append(train_job["metadata"]["name"])
        site.state().write_outcome(Outcome(kind="stopped"))

    site.cluster.on_start = lambda _: site.state().mark_progress()
    site.cluster.on_stop = stop
    return stopped


def test_a_paused_job_s_train_job_is_suspended_and_replaced_when_it_goes_on(site: Site) -> None:
    stopped = stop_tells(site)
    worker = in_thread(site.work)
    wait_until(lambda: NAME in site.cluster.train_jobs)
    transition_job(site.jobs, ID, JobStatus.PAUSED)
    worker.join(60)
    job = site.jobs.get(ID)
    assert (job.status, job.lease.owner, stopped) == (JobStatus.PAUSED, "", [NAME])
    assert site.cluster.train_jobs[NAME]["spec"]["suspend"] is True
    assert "deletionTimestamp" not in site.cluster.train_jobs[NAME]["metadata"]
    transition_job(site.jobs, ID, JobStatus.QUEUED)
    site.cluster.on_start = lambda _: site.state(2).write_outcome(DONE)
    assert site.work().status is JobStatus.SUCCEEDED
    assert "deletionTimestamp" in site.cluster.train_jobs[NAME]["metadata"]


def test_a_cancelled_job_s_train_job_is_deleted_in_the_foreground(site: Site) -> None:
    stopped = stop_tells(site)
    worker = in_thread(site.work)
    wait_until(lambda: NAME in site.cluster.train_jobs)
    transition_job(site.jobs, ID, JobStatus.CANCELLED)
    worker.join(60)
    assert stopped == [NAME]
    metadata = site.cluster.train_jobs[NAME]["metadata"]
    assert metadata["finalizers"] == ["foregroundDeletion"]
    assert site.jobs.get(ID).status is JobStatus.CANCELLED


def terminated(code: int, reason: str) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": reason}}
    about = {"name": "node", "image": "x", "imageID": "x", "ready": False, "restartCount": 0}
    return {"containerStatuses": [{**about, "state": state}]}


def test_a_failed_train_job_says_which_pod_and_why(site: Site) -> None:
    def fail(train_job: dict[str, Any]) -> None:
        site.cluster.put_pod(NAME, f"{NAME}-node-0-1-x", terminated(1, "Error"))
        site.cluster.condition(NAME, "Failed", "JobsFailed", "jobset failed due to one job failure")

    site.cluster.on_start = fail
    job = site.work()
    assert (job.status, job.attempt) == (JobStatus.RUNNING, 1)
    (told,) = (e.message for e in site.deps.events.read(ID, None, 10))
    assert "jobset failed due to one job failure" in told
    assert f"pod {NAME}-node-0-1-x ended with 1 (Error)" in told


@pytest.mark.parametrize("rank_0_told", [True, False])
def test_a_pod_over_its_memory_is_tried_again_in_parts(site: Site, rank_0_told: bool) -> None:
    def fail(train_job: dict[str, Any]) -> None:
        if rank_0_told:
            gone = JobFailure(message="another of the 2 ranks is gone", code="internal_error")
            site.state().write_outcome(Outcome(kind="crashed", failure=gone))
        site.cluster.put_pod(NAME, f"{NAME}-node-0-0-x", terminated(137, "OOMKilled"))
        site.cluster.condition(NAME, "Failed", "JobsFailed", "a job failed")

    site.cluster.on_start = fail
    job = site.work()
    assert (job.status, job.attempt, job.micro_batches) == (JobStatus.RUNNING, 0, 4)
    assert "went over its memory limit" in (job.waiting or "")


@pytest.mark.parametrize(
    ("verb", "resource", "named"),
    [
        ("create", "trainjobs", "trainjobs.trainer.kubeflow.org"),
        ("list", "trainjobs", "trainjobs.trainer.kubeflow.org"),
    ],
)
def test_a_job_waits_for_a_permission_and_names_it(
    site: Site, verb: str, resource: str, named: str
) -> None:
    site.cluster.allowed = read_permissions() - {(verb, resource)}
    job = site.work()
    assert (job.status, job.attempt) == (JobStatus.RUNNING, 0)
    assert f"lacks the verb `{verb}` on {named} in namespace qcrd" in (job.waiting or "")


def test_a_cluster_without_kubeflow_trainer_is_told(site: Site) -> None:
    site.cluster.has_trainer = False
    assert "install Kubeflow Trainer" in (site.work().waiting or "")


def test_an_api_server_that_is_away_is_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = site.claimed()
    executor = site.executor()
    training = executor.start(job)
    site.cluster.allowed = read_permissions() - {("get", "trainjobs")}
    assert executor.poll(training).state == "waiting", "the training is not given up"
    site.api.configuration.host = "http://127.0.0.1:1"
    assert site.executor().start(job).name == NAME, "it is there, and needs nobody"
    lease = job.lease.model_copy(update={"token": 2})
    with pytest.raises(Transient, match="does not answer"):
        site.executor().start(job.model_copy(update={"lease": lease}))
