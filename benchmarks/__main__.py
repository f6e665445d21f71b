"""Run every benchmark with its defaults, one after the other: `python -m benchmarks`.

The ladder on real data is left out: it takes hours, and data that is not in the repository.
"""

from __future__ import annotations

import argparse

from benchmarks import data_files, teachers, throughput, verdicts
from benchmarks.gateway import __main__ as gateway
from benchmarks.negatives import __main__ as negatives
from benchmarks.step_cost import __main__ as step_cost
from benchmarks.teacher import __main__ as teacher
from benchmarks.teacher import sampling

BENCHMARKS = {
    "step_cost": step_cost,
    "throughput": throughput,
    "negatives": negatives,
    "teacher": teacher,
    "teacher.sampling": sampling,
    "teachers": teachers,
    "data_files": data_files,
    "verdicts": verdicts,
    "gateway": gateway,
}
LADDER_NOTE = """\
`python -m benchmarks.NAME --help` shows the options of one. The ladder on real data is not run
here, as it takes hours: `python -m benchmarks.ladder --help`."""


def _parse_arguments() -> None:
    lines = [
        f"  {name:<17}{(module.__doc__ or '').splitlines()[0]}"
        for name, module in BENCHMARKS.items()
    ]
    argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run these benchmarks with their defaults, one after the other:",
        epilog="\n".join([*lines, "", LADDER_NOTE]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()


def main() -> None:
    _parse_arguments()
    for module in BENCHMARKS.values():
        module.main([])


if __name__ == "__main__":
    main()
