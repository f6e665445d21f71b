"""Several processes train one student as one process would, and are lost as one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from qcrd.records.job import JobStatus
from qcrd.runtime.jobs.commands import transition_job
from tests.integration.site import Site, spec, training_processes, when
from tests.integration.trainer.distributed_curve import curve

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.mark.parametrize(
    ("method", "kind"), [("qcrd", "t5"), ("qcrd", "llama"), ("single_task", "t5")]
)
def test_two_processes_have_the_loss_curve_of_one(method: str, kind: str, tmp_path: Path) -> None:
    """Eight questions in batches of seven: every second batch leaves one process without any."""

    curve(method, kind, tmp_path / "1.pt", None)
    module = ["-m", "tests.integration.trainer.distributed_curve", method, kind]
    command = [sys.executable, *TORCHRUN, *module, str(tmp_path / "2.pt")]
    subprocess.run(command, check=True, timeout=240)
    alone, weights, work = torch.load(tmp_path / "1.pt", weights_only=False)
    shared, others, shared_work = torch.load(tmp_path / "2.pt", weights_only=False)
    assert len(alone) == len(shared) == 6
    for step, (one, two) in enumerate(zip(alone, shared, strict=True)):
        assert one.keys() == two.keys()
        assert two == pytest.approx(one, abs=1e-4), f"step {step + 1}"
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], atol=1e-4), name
    assert work["tokens"] > 0
    assert shared_work["tokens"] == work["tokens"]
    assert shared_work["flops"] == pytest.approx(work["flops"])


def test_a_job_is_trained_by_two_processes_and_survives_the_loss_of_one(site: Site) -> None:
    job_id = site.submit(spec())
    running: list[int] = []

    def lose() -> None:
        found = training_processes()
        running.append(len(found))
        second = next(p for p in found if p.environ().get("RANK") == "1")
        second.send_signal(signal.SIGKILL)

    loser = when(lambda: any("iteration 1, validation" in m for m in site.messages(job_id)), lose)
    job = site.work(job_id, processes=2)
    loser.join()
    assert running == [2]
    assert job.status is JobStatus.RUNNING
    assert job.attempt == 1
    assert not training_processes()
    job = site.work(job_id, processes=2)
    assert job.status is JobStatus.SUCCEEDED
    assert any("resumed after step" in message for message in site.messages(job_id))


def test_a_cancelled_job_leaves_none_of_its_processes(site: Site) -> None:
    job_id = site.submit(spec(iterations=500))
    stopper = when(
        lambda: any("step 1," in m or "iteration 1," in m for m in site.messages(job_id)),
        lambda: transition_job(site.jobs, job_id, JobStatus.CANCELLED),
    )
    job = site.work(job_id, processes=2)
    stopper.join()
    assert job.status is JobStatus.CANCELLED
    psutil.wait_procs(training_processes(), timeout=60)
    assert not training_processes()
