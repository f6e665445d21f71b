"""Ranks train one student as one process would, whatever they shard, and are lost as one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from qcrd.records.job import Job, JobStatus
from qcrd.runtime.jobs.commands import transition_job
from services.trainer.supervision.process_outcome import read_outcome
from tests.integration.site import Site, spec, training_processes, when
from tests.integration.trainer.rank_scenarios import WITHOUT_JUDGE, run_alone

START_SECONDS = 500
pytestmark = pytest.mark.timeout(600)

Results = dict[str, Any]
"""Of each scenario's command, what came of it."""


def start_ranks(
    size: int, shards: int | str, out: Path, *commands: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    module = ["-m", "tests.integration.trainer.rank_scenarios", str(shards), str(out)]
    return subprocess.run(
        [sys.executable, *torchrun, *module, *commands],
        check=check,
        timeout=START_SECONDS,
        capture_output=not check,
        text=True,
    )


def run_ranks(size: int, shards: int | str, out: Path, *commands: str) -> Results:
    start_ranks(size, shards, out, *commands)
    return dict(zip(commands, torch.load(out, weights_only=False), strict=True))


def same_curve(one: Any, other: Any) -> None:
    """Loss, norms and every term per step, the weights at the end, and the work."""
    (losses, weights, work), (other_losses, other_weights, other_work) = one, other
    assert len(losses) == len(other_losses) == 6
    for step, (left, right) in enumerate(zip(losses, other_losses, strict=True)):
        assert left.keys() == right.keys()
        assert right == pytest.approx(left, abs=1e-4), f"step {step + 1}"
    for name, weight in weights.items():
        assert torch.allclose(weight, other_weights[name], atol=1e-4), name
    assert work["tokens"] > 0
    assert other_work == pytest.approx(work)


# Eight questions in batches of seven: every second batch leaves all ranks but one without any.
# What a scheme draws is no matter of who draws it.
CURVES = ("curve:qcrd:llama", "curve:qcrd:t5", "curve:single_task:t5", "curve:qcrd:t5:1:sampling")
SHARES = ("uneven:llama", "uneven:t5", "curve:qcrd:llama:2")
KINDS = ("llama", "t5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `saved` states are, of one process and of two ranks."""
    return tmp_path_factory.mktemp("ranks")


def saved(folder: Path, by: str, kind: str) -> str:
    return f"{folder / by}-{kind}:{kind}"


@pytest.fixture(scope="module")
def alone() -> Results:
    return dict(zip((*CURVES, *SHARES), run_alone((*CURVES, *SHARES)), strict=True))


# Each number of ranks is started once, for all that is asked of it: a start costs most of it.
@pytest.fixture(scope="module")
def two(folder: Path) -> Results:
    """Two ranks with a half of everything each. They save, and go on from what one has saved."""
    run_alone([f"save:{saved(folder, 'one', kind)}:3" for kind in KINDS])
    commands = [*CURVES, *SHARES]
    for kind in KINDS:
        by_one, by_two = saved(folder, "one", kind), saved(folder, "two", kind)
        commands += [f"curve:{WITHOUT_JUDGE}:{kind}", f"save:{by_two}:3"]
        commands += [f"resume:{by_two}", f"resume:{by_one}"]
    return run_ranks(2, 2, folder / "2.pt", *commands, "errors")


@pytest.fixture(scope="module")
def two_whole(folder: Path, two: Results) -> Results:
    """Two ranks with a whole student each, which also save, and go on from what others saved."""
    commands = [*CURVES, *SHARES]
    for kind in KINDS:
        by_halves, by_whole = saved(folder, "two", kind), saved(folder, "whole", kind)
        commands += [f"save:{by_whole}:3", f"resume:{by_whole}", f"resume:{by_halves}"]
    return run_ranks(2, 1, folder / "whole.pt", *commands)


@pytest.fixture(scope="module")
def two_copies(folder: Path) -> Results:
    return run_ranks(2, "copies", folder / "copies.pt", *CURVES)


@pytest.fixture(scope="module")
def three(folder: Path, two: Results) -> Results:
    """Three ranks, which also go on from what two have saved."""
    resumed = [f"resume:{saved(folder, 'two', kind)}" for kind in KINDS]
    return run_ranks(3, 3, folder / "3.pt", *CURVES, *resumed)


@pytest.mark.parametrize("ranks", ["two", "two_whole", "two_copies", "three"])
@pytest.mark.parametrize("curve", CURVES)
def test_ranks_have_the_loss_curve_of_one_process(
    ranks: str, curve: str, alone: Results, request: pytest.FixtureRequest
) -> None:
    same_curve(alone[curve], request.getfixturevalue(ranks)[curve])


@pytest.mark.parametrize("ranks", ["two", "two_whole"])
def test_uneven_shares_and_parts(
    ranks: str, alone: Results, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(ranks)
    *uneven, parts = SHARES
    for command in uneven:
        (_, losses, norm), (shares, other_losses, other_norm) = alone[command], found[command]
        assert sorted(shares) == [1, 7]
        assert other_losses == pytest.approx(losses, abs=1e-4)
        assert other_norm == pytest.approx(norm, rel=1e-4)
    same_curve(alone[parts], found[parts])


def test_an_error_on_one_rank_is_raised_on_all(two: Results) -> None:
    expected = [f"rank {rank} refuses, training_file" for rank in (1, 0, 0)]
    assert two["errors"] == [expected, expected]


@pytest.mark.parametrize("kind", KINDS)
def test_what_some_ranks_saved_any_number_goes_on_from(
    kind: str, folder: Path, two: Results, two_whole: Results, three: Results
) -> None:
    """On the same number of ranks with the same bits."""
    resume = f"resume:{saved(folder, 'two', kind)}"
    losses, weights, _ = two[f"curve:{WITHOUT_JUDGE}:{kind}"]
    again = two[resume]
    assert len(again[0]) == 3
    assert all(torch.equal(weight, again[1][name]) for name, weight in weights.items())
    after_one = two[f"resume:{saved(folder, 'one', kind)}"]
    by_itself, whole_by_itself = run_alone([resume, f"resume:{saved(folder, 'whole', kind)}"])
    after_whole = two_whole[f"resume:{saved(folder, 'whole', kind)}"]
    others = (after_one, by_itself, three[resume], two_whole[resume], after_whole, whole_by_itself)
    for other_losses, other_weights in others:
        for left, right in zip(losses[3:], other_losses, strict=True):
            assert right == pytest.approx({name: left[name] for name in right}, abs=1e-4)
        for name, weight in weights.items():
            assert torch.allclose(weight, other_weights[name], atol=1e-4), name


def test_a_rank_that_is_killed_ends_all_of_them(tmp_path: Path) -> None:
    ended = start_ranks(2, 2, tmp_path / "out.pt", "die", check=False)
    assert ended.returncode
    assert not (tmp_path / "out.pt").exists()


def test_what_ended_one_rank_is_the_outcome_of_all(tmp_path: Path) -> None:
    """The main rank sees a connection that breaks, and says why it did."""
    start_ranks(2, 2, tmp_path / "outcome.json", "fail")
    outcome = read_outcome(tmp_path / "outcome.json")
    assert outcome is not None
    assert outcome.kind == "out_of_memory"
    assert outcome.failure is not None
    assert "Tried to allocate 2.00 GiB" in outcome.failure.message


def test_a_job_of_two_ranks_survives_the_loss_and_the_interruption_of_one(site: Site) -> None:
    """The second is killed, then asked to end, which is a checkpoint of both."""
    job_id = site.submit(spec())
    running: list[int] = []

    def send(signal_number: int) -> None:
        found = training_processes()
        running.append(len(found))
        second = next(p for p in found if p.environ().get("RANK") == "1")
        second.send_signal(signal_number)

    def disturb(number: int, message: str) -> Job:
        disturber = when(
            lambda: any(message in m for m in site.messages(job_id)), lambda: send(number)
        )
        job = site.work(job_id, processes=2)
        disturber.join()
        assert not training_processes()
        return job

    job = disturb(signal.SIGKILL, "iteration 1, validation")
    assert job.status is JobStatus.RUNNING
    assert job.attempt == 1
    job = disturb(signal.SIGTERM, "resumed after step")
    assert job.status in {JobStatus.RUNNING, JobStatus.QUEUED}
    assert job.attempt == 1
    assert running == [2, 2]
    job = site.work(job_id, processes=2)
    assert job.status is JobStatus.SUCCEEDED
    assert sum("resumed after step" in message for message in site.messages(job_id)) == 2


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
