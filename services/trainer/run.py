"""The training process of one job: `python -m services.trainer.run JOB TOKEN`.

It writes under the worker's lease token, trains, publishes, and tells its outcome: in a file where
the worker is on the same machine, in Redis otherwise, and by its exit code (`EXIT_CODES`). Under
the launcher several of them train together, and rank 0 speaks for all.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from qcrd.errors import Interrupted, LeaseLost, QcrdError, Transient
from qcrd.method.distributed import sharding
from qcrd.method.distributed.process_ranks import (
    LOST_SECONDS,
    ProcessRanks,
    RankLost,
    is_connection_error,
    is_distributed,
    is_main_process,
)
from qcrd.method.distributed.ranks import Ranks, SingleRank
from qcrd.method.judge.model import JudgeBackend
from qcrd.method.judge.shared import SharedJudge
from qcrd.method.student.base import Student
from qcrd.method.training.negatives.sampler import (
    InlineNegativeSampler,
    NegativeSampler,
    ProcessNegativeSampler,
)
from qcrd.records.job import Report
from qcrd.runtime import telemetry
from qcrd.runtime.jobs.celery_worker import make_worker_deps
from qcrd.runtime.jobs.lease import LeaseHeartbeat
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import StageContext, WorkerDeps
from qcrd.runtime.parent_death import die_with_parent
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import (
    DiscriminatorAddress,
    LogSettings,
    ModelSettings,
    RedisSettings,
    load_settings,
)
from qcrd.runtime.storage.base_models import find_base_model
from services.trainer import follower
from services.trainer.distillation import TrainingResources, run_distillation
from services.trainer.execution.training_state import RedisProgressMark, TrainingState
from services.trainer.job_arguments import add_job_arguments
from services.trainer.judge_client import RemoteJudge
from services.trainer.settings import TrainerSettings
from services.trainer.supervision import process_outcome
from services.trainer.supervision.process_outcome import EXIT_CODES, Outcome
from services.trainer.supervision.progress_mark import ProgressMark
from services.trainer.trackers.tracking import TrackedEventLog, Tracking

log = logging.getLogger(__name__)

Mark = Callable[[], None]


def run_job(
    job_id: str, token: int, stopping: threading.Event, mark_progress: Mark, ranks: Ranks
) -> Outcome:
    # This process enqueues nothing: its worker does.
    deps = make_worker_deps(connect_redis(RedisSettings()), MemoryJobQueue(), stopping)
    job = deps.jobs.get(job_id)
    if job.lease.token != token:
        raise LeaseLost(f"job {job_id} has gone to another worker")
    lease_heartbeat = LeaseHeartbeat(deps.jobs, job, heartbeat=deps.heartbeat, ttl=deps.ttl)
    with telemetry.log_context(request_id=job.request_id), lease_heartbeat:
        stage_deps = deps if ranks.is_main else follower.make_follower_deps(deps, job)
        stage = StageContext(stage_deps, job, lease_heartbeat)
        return _run_training(stage, deps, mark_progress, ranks)


def _run_training(
    stage: StageContext, deps: WorkerDeps, mark_progress: Mark, ranks: Ranks
) -> Outcome:
    settings, models = load_settings(TrainerSettings), load_settings(ModelSettings)
    discriminator = load_settings(DiscriminatorAddress)
    stage.update_job(gpus=_count_gpus(settings, ranks), processes=count_local_ranks(settings))
    spec = stage.job.spec
    device = _resolve_device(settings)
    log.info("training %s by %s on %s", spec.model, spec.method, device)
    checkpoint = spec.settings.negatives.checkpoint
    param = f"method.{spec.method}.negatives.checkpoint"

    def find_models() -> list[Path]:
        base = find_base_model(spec.model, models, deps.store)
        if not checkpoint:
            return [base]
        return [base, find_base_model(checkpoint, models, deps.store, param=param)]

    # One fetches what a machine does not have yet; the others of that machine find it there.
    ranks.run_on_main(lambda: list(map(str, find_models())))
    base, *fixed = find_models()

    def check() -> None:
        mark_progress()
        stage.raise_if_stopping()

    def make_judge(judge_id: str) -> JudgeBackend:
        if not ranks.is_main:
            return SharedJudge(None, ranks)
        judge = RemoteJudge(
            discriminator.url,
            judge_id,
            base=spec.settings.discriminator.encoder or spec.model,
            spec=spec.settings.discriminator,
            seed=spec.seed,
            check=check,
            token=stage.token,
        )
        return SharedJudge(judge, ranks) if ranks.size > 1 else judge

    mesh = sharding.make_mesh(
        torch.device(device).type,
        replicas=ranks.size // settings.shards,
        shards=settings.shards,
    )
    events = stage.events
    tracking = Tracking(
        stage.job, settings.tensorboard_dir, settings.tracker_seconds, enabled=ranks.is_main
    )
    stage.events = TrackedEventLog(events, tracking.trackers)
    report: Report | None = None
    try:
        report, model = run_distillation(
            stage,
            TrainingResources(
                base_dir=base,
                make_judge=make_judge,
                fixed_checkpoint=fixed[0] if fixed else None,
                make_sampler=_make_sampler_factory(
                    settings,
                    stage.raise_if_stopping,
                    mark_progress,
                    is_several=ranks.size > 1,
                    is_copy=mesh is not None,
                ),
                mark_progress=mark_progress,
                device=device,
                checkpoint_seconds=settings.checkpoint_seconds,
                ranks=ranks,
                mesh=mesh,
            ),
        )
    finally:
        mark_progress()
        tracking.finish(events, stage.job.id, report)
    return Outcome(kind="done", report=report, model=model)


def _resolve_device(settings: TrainerSettings) -> str:
    """The GPU of this process, by its number among those of the job on this machine."""
    if settings.device == "cpu" or not torch.cuda.is_available():
        return settings.device if settings.device != "auto" else "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def count_local_ranks(settings: TrainerSettings) -> int:
    """Training processes of this job on this machine: as many as its launcher started."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", settings.fixed_processes))


def _count_gpus(settings: TrainerSettings, ranks: Ranks) -> int:
    """GPUs that this job uses: one per training process, and one for a sampler process."""
    available = torch.cuda.device_count() if settings.device != "cpu" else 0
    local = count_local_ranks(settings)
    sampler_gpus = ranks.size == 1 and settings.sampler != "inline" and available > local
    return min(available, local) * max(1, ranks.size // local) + sampler_gpus


def _make_sampler_factory(
    settings: TrainerSettings,
    check: Callable[[], None],
    mark_progress: Mark,
    *,
    is_several: bool,
    is_copy: bool,
) -> Callable[[Student], NegativeSampler]:
    """The sampler of the settings; a separate process uses a GPU that training leaves free. Several
    ranks sample a share each, sharded ones from the whole copies that they have."""
    gpus = torch.cuda.device_count() if settings.device != "cpu" else 0
    local = count_local_ranks(settings)
    spare = gpus > local
    if is_several or settings.sampler == "inline" or (settings.sampler == "auto" and not spare):

        def check_and_mark() -> None:
            mark_progress()
            check()

        return lambda student: InlineNegativeSampler(student, check_and_mark, is_copy=is_copy)
    device = f"cuda:{local if spare else 0}" if gpus else "cpu"
    # Waiting for that process is no progress: its batches are.
    return lambda student: ProcessNegativeSampler(student, device, check, mark_progress)


def run_to_outcome(work: Callable[[Ranks], Outcome], ranks: Ranks) -> Outcome:
    """The outcome of this rank's `work`, whatever it is."""
    try:
        return work(ranks)
    except (Interrupted, LeaseLost) as error:
        log.info("training interrupted: %s", error)
        return Outcome(kind="stopped")
    except RankLost as error:
        # An attempt, however it was noticed: one that dies each time would be waited for for ever.
        log.warning("%s", error)
        return process_outcome.make_crash_outcome(error)
    except QcrdError as error:
        log.warning("%s", error)
        return process_outcome.make_error_outcome(error)
    except Exception as error:  # the process boundary: unexpected exceptions, with their reason
        if ranks.size > 1 and is_connection_error(error):
            error = RankLost(f"another of the {ranks.size} ranks is gone")
        log.exception("training crashed")
        return process_outcome.make_crash_outcome(error)


def run_rank(work: Callable[[Ranks], Outcome], *, lost_seconds: float = LOST_SECONDS) -> Outcome:
    """The outcome of `work` on one of several ranks. What ends one of them is that of all."""
    with ProcessRanks(lost_seconds=lost_seconds, on_cut_off=_end_cut_off) as ranks:
        outcome = run_to_outcome(work, ranks)
        if outcome.kind == "done":
            ranks.finish()
        elif (failure := ranks.find_failure()) is not None:
            return Outcome.model_validate(failure.failure)
        elif outcome.kind != "stopped":
            ranks.report_failure(outcome.model_dump(mode="json"))
        return outcome


def _end_cut_off(reason: str) -> None:
    """Whoever could be told is out of reach, and the main thread may wait for them for long."""
    log.error("%s; ending", reason)
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_job_arguments(parser)
    args = parser.parse_args()
    if args.parent is not None:
        die_with_parent(args.parent, signal.SIGKILL)
    telemetry.configure_logging("training", load_settings(LogSettings).level)
    transformers.utils.logging.disable_progress_bar()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    mark_progress: Mark = (
        ProgressMark(args.progress) if args.progress else RedisProgressMark(args.job, args.token)
    )

    def work(ranks: Ranks) -> Outcome:
        return run_job(args.job, args.token, stopping, mark_progress, ranks)

    with telemetry.log_context(job_id=args.job):
        if is_distributed():
            lost_seconds = load_settings(TrainerSettings).rank_lost_seconds
            outcome = run_rank(work, lost_seconds=lost_seconds)
        else:
            outcome = run_to_outcome(work, SingleRank())
    if is_main_process():
        write_outcome(args, outcome)
    sys.exit(EXIT_CODES[outcome.kind])


def write_outcome(args: argparse.Namespace, outcome: Outcome) -> None:
    if args.outcome:
        process_outcome.write_outcome(args.outcome, outcome)
    else:
        state = TrainingState(connect_redis(RedisSettings()), args.job, args.token)
        try:
            state.write_outcome(outcome)
        except Transient as error:  # the exit code is left to tell it
            log.error("the outcome cannot be told: %s", error)


if __name__ == "__main__":
    main()
