"""Several training processes for one job: `python -m services.trainer.launch N ...`, by torchrun.

What follows N goes to `services.trainer.run`, once per process. They end with this one, and this
one with the worker that started it.
"""

from __future__ import annotations

import argparse
import os
import signal

from torch.distributed.run import main as torchrun

from qcrd.runtime.parent_death import die_with_parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("processes", type=int)
    parser.add_argument("--parent", type=int, required=True, help="process to die with")
    args, training_args = parser.parse_known_args()
    die_with_parent(args.parent, signal.SIGKILL)
    torchrun(
        [
            "--standalone",
            f"--nproc-per-node={args.processes}",
            "-m",
            "services.trainer.run",
            *training_args,
            f"--parent={os.getpid()}",
        ]
    )


if __name__ == "__main__":
    main()
