"""`python -m services.trainer.trackers RUN SUMMARY OUTCOME --parent PID`: one tracker of the
`TrackedRun` in the file RUN, told by lines of JSON on standard input and at the end by SUMMARY.

What it raises ends this process and not the job; the file OUTCOME says how it ended.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from qcrd.runtime.parent_death import die_with_parent
from services.trainer.trackers.base import TrackedRun, Tracker, TrackerFailed
from services.trainer.trackers.mlflow_tracker import MlflowTracker
from services.trainer.trackers.tensorboard_tracker import TensorboardTracker
from services.trainer.trackers.trackio_tracker import TrackioTracker
from services.trainer.trackers.wandb_tracker import WandbTracker

TRACKERS: Mapping[str, Callable[[TrackedRun], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
    "tensorboard": TensorboardTracker,
}
"""Each imports its library when a run begins."""


def follow(run: TrackedRun, lines: Callable[[], str], summary: Path) -> str | None:
    """Pass on what comes until the end; where the run is to be seen. Without a file `summary` the
    job did not succeed."""
    tracker = TRACKERS[run.integration.type](run)
    while line := lines():
        told = json.loads(line)
        tracker.log(told["metrics"], told["step"])
    succeeded = summary.exists()
    if succeeded:
        tracker.log_summary(json.loads(summary.read_text(encoding="utf-8")))
    return tracker.finish(succeeded=succeeded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("summary", type=Path)
    parser.add_argument("outcome", type=Path)
    parser.add_argument("--parent", type=int, required=True, help="process to die with")
    options = parser.parse_args()
    die_with_parent(options.parent, signal.SIGKILL)
    # The trainer decides when it ends: by closing the pipe.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run = TrackedRun.model_validate_json(options.run.read_text())
    kind = run.integration.type
    try:
        outcome = {"url": follow(run, sys.stdin.readline, options.summary)}
    except ImportError as error:
        outcome = {
            "error": f"{error.name} is not installed at the trainer: pip install 'qcrd[{kind}]'"
        }
    except TrackerFailed as error:
        outcome = {"error": str(error)}
    except Exception as error:  # the process boundary: a library may raise anything
        outcome = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    options.outcome.write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    main()
