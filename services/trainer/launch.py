"""The ranks of one job on this machine: `python -m services.trainer.launch JOB TOKEN`.

This is the process of a container: torchrun's agent runs in it, on one machine with `--processes`,
on several by the variables that Kubeflow Trainer's torch policy sets. torchrun as a program would
make 1 of every exit code. This one ends with the code of the outcome (`EXIT_CODES`) that rank 0
told, or else of the first of its ranks that failed.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import uuid

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from qcrd.errors import QcrdError
from qcrd.runtime import telemetry
from qcrd.runtime.parent_death import die_with_parent
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import LogSettings, RedisSettings, load_settings
from services.trainer.execution.training_state import TrainingState
from services.trainer.job_arguments import add_job_arguments
from services.trainer.settings import NodeSettings, TrainerSettings
from services.trainer.supervision.process_outcome import EXIT_CODES, Outcome, read_outcome

log = logging.getLogger(__name__)

START_SECONDS = 900
"""For all machines to come together: one may have to fetch the image first."""


def make_launch_config(args: argparse.Namespace) -> LaunchConfig:
    """No rank is started again: the job is, from its checkpoint."""
    settings = load_settings(TrainerSettings)
    shutdown_timeout = max(1, round(settings.grace_seconds))
    if os.environ.get("PET_NNODES"):
        node = load_settings(NodeSettings)
        return LaunchConfig(
            min_nodes=node.nnodes,
            max_nodes=node.nnodes,
            nproc_per_node=node.nproc_per_node,
            rdzv_backend="static",
            rdzv_endpoint=f"{node.master_addr}:{node.master_port}",
            rdzv_configs={"rank": node.node_rank, "timeout": START_SECONDS},
            run_id=f"{args.job}-{args.token}",
            max_restarts=0,
            shutdown_timeout=shutdown_timeout,
        )
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=args.processes or settings.processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        run_id=str(uuid.uuid4()),
        max_restarts=0,
        shutdown_timeout=shutdown_timeout,
    )


def launch_ranks(config: LaunchConfig, arguments: list[str]) -> int:
    """Run this machine's ranks to their end; the exit code of the first that failed, 0 if none."""
    if config.nproc_per_node > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    command = ["-u", "-m", "services.trainer.run", *arguments, f"--parent={os.getpid()}"]
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        log.warning("rank %d ended first, with status %d", rank, failure.exitcode)
        known = failure.exitcode in EXIT_CODES.values()
        return failure.exitcode if known else EXIT_CODES["crashed"]
    except SignalException as error:
        # The agent has passed it on and waited for the ranks.
        log.info("ended by signal %d", error.sigval)
        return EXIT_CODES["stopped"]
    return EXIT_CODES["done"]


def read_told_outcome(args: argparse.Namespace) -> Outcome | None:
    """What rank 0 told, on whichever machine it was."""
    if args.outcome:
        return read_outcome(args.outcome)
    try:
        return TrainingState(connect_redis(RedisSettings()), args.job, args.token).read_outcome()
    except QcrdError as error:
        log.warning("the outcome cannot be read: %s", error)
        return None


def end_on_early_sigterm() -> None:
    """End at SIGTERM while there are no ranks yet. The main thread waits for other machines in
    torch then, where no handler of Python's runs, and a container's first process ignores signals
    that it does not handle. With its ranks the agent puts its own handler in this one's place."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def ignore(*_: object) -> None:
        """What is done is done by the thread."""

    def watch() -> None:
        while received := os.read(reader, 1):
            is_early = signal.getsignal(signal.SIGTERM) is ignore
            if received[0] == signal.SIGTERM and is_early:
                os._exit(EXIT_CODES["stopped"])

    signal.signal(signal.SIGTERM, ignore)
    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_job_arguments(parser)
    parser.add_argument("--processes", type=int, help="ranks, where this is the only machine")
    args = parser.parse_args()
    if args.parent is not None:
        die_with_parent(args.parent, signal.SIGKILL)
    telemetry.configure_logging("launcher", load_settings(LogSettings).level)
    config = make_launch_config(args)
    end_on_early_sigterm()
    files = [f"--{name}={path}" for name in ("outcome", "progress") if (path := vars(args)[name])]
    code = launch_ranks(config, [args.job, str(args.token), *files])
    outcome = read_told_outcome(args)
    sys.exit(code if outcome is None else EXIT_CODES[outcome.kind])


if __name__ == "__main__":
    main()
