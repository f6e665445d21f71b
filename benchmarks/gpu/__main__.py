"""Stages for a machine with a GPU and no network; docs/gpu.md says how to get there.

    python -m benchmarks.gpu STAGE [--out DIR] [--limit S] [--rehearse]
                                   STAGE: smoke, speed, decide, reasoning, ladder
    python -m benchmarks.gpu --rehearse               all stages on this CPU, with tiny models
    python -m benchmarks.gpu page [--out DIR]         the results as a dated page
    python -m benchmarks.gpu cut FILE… --to DIR       large files as parts that can be sent
    python -m benchmarks.gpu join DIR --to DIR        and together again

Exit codes: 0 all is done, 1 a check failed, 3 it cannot go on, 4 the time is up: call again.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu import parcels
from benchmarks.gpu.machine import CPU, Machine, describe, find_missing, list_versions
from benchmarks.gpu.results import CANNOT, FAILED, WHOLE, Clock, StageResults, run_parts
from qcrd.errors import NotFound, QcrdError

STAGES = ("smoke", "speed", "decide", "reasoning", "ladder")
KEPT = Path("gpu-results")
"""Where results stay between calls, whatever else `--out` says."""
PART_MIB = 48.0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", choices=(*STAGES, "page", "cut", "join"))
    parser.add_argument("files", nargs="*", type=Path, help="of `cut`; the folder of `join`")
    parser.add_argument("--rehearse", action="store_true", help="on this CPU, with tiny models")
    parser.add_argument("--out", type=Path, help=f"default $OUT, else {KEPT}")
    parser.add_argument("--kept", type=Path, default=KEPT, help="results of earlier calls")
    parser.add_argument("--limit", type=float, help="seconds; default the stage's own")
    parser.add_argument("--to", type=Path, help="of `cut` and `join`")
    parser.add_argument("--part-mib", type=float, default=PART_MIB)
    parser.add_argument("--page", type=Path, help="default docs/results/DATE-gpu.md")
    parser.add_argument(
        "--data", type=Path, help="decide, ladder: the folder of the data sets' folders"
    )
    parser.add_argument("--models", type=Path, default=Path.home() / ".qcrd/models")
    parser.add_argument("--student", default="smollm2-30")
    parser.add_argument("--flops", type=float, default=3e15, help="ladder: of each run")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=6, help="ladder: runs at a time")
    options = parser.parse_args(argv)
    if options.command is None and not options.rehearse:
        parser.error("name a stage, or --rehearse them all")
    if options.command in ("cut", "join") and not (options.files and options.to):
        parser.error(f"{options.command} needs files and --to")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        return _run_command(options)
    except QcrdError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return FAILED


def _run_command(options: argparse.Namespace) -> int:
    if options.command == "cut":
        for path in parcels.cut(options.files, options.to, part_mib=options.part_mib):
            print(path)
        return WHOLE
    if options.command == "join":
        joined, missing = parcels.join(options.files[0], options.to)
        print("\n".join([*map(str, joined), *(f"still missing: {name}" for name in missing)]))
        return CANNOT if missing else WHOLE
    if options.command == "page":
        return _write_page(options)
    clock = Clock(options.limit or float("inf"))
    machine = _look_around(rehearsed=options.rehearse)
    if machine is None:
        return CANNOT
    if options.command is None:
        return _rehearse(options, machine)
    return _run_stage(options, options.command, machine, clock)


def _look_around(*, rehearsed: bool) -> Machine | None:
    """Print what is here and what is missing; None where no stage could go on."""
    print(", ".join(list_versions()), flush=True)
    missing = find_missing()
    for line in missing:
        print(f"missing: {line}")
    if missing:
        return None
    # Before the first product: cuBLAS reads it once, and needs it to give the same bits again.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    machine = describe(use_gpu=not rehearsed)
    print(
        f"{machine.card}, {machine.memory_gib} GiB, CUDA {machine.cuda}, torch {machine.torch}, "
        f"commit {machine.commit}",
        flush=True,
    )
    if machine.card == CPU and not rehearsed:
        print("missing: torch sees no GPU here; --rehearse goes through the stages without one")
        return None
    return machine


def _run_stage(options: argparse.Namespace, stage: str, machine: Machine, clock: Clock) -> int:
    import transformers

    from benchmarks.gpu import decide, ladder, reasoning, smoke, speed

    transformers.utils.logging.disable_progress_bar()
    stages = {
        "smoke": smoke, "speed": speed, "decide": decide, "reasoning": reasoning, "ladder": ladder,
    }  # fmt: skip
    clock.limit = options.limit or stages[stage].SECONDS
    folders = _list_folders(options)
    print(f"== {stage}: at most {clock.limit:.0f} s, results in {folders[0]}", flush=True)
    if stage == "decide":
        return decide.run(
            folders[0] / "decide",
            device=machine.device, limit=clock.left, rehearsed=options.rehearse,
            data=options.data, models=options.models,
        )  # fmt: skip
    if stage == "reasoning":
        return reasoning.run(
            folders[0] / "reasoning", clock, device=machine.device, rehearsed=options.rehearse,
            data=options.data, models=options.models,
        )  # fmt: skip
    if stage == "ladder":
        return _run_ladder(options, machine, folders, clock)
    results = StageResults(stage, folders, machine, rehearsed=options.rehearse)
    parts = (
        smoke.list_parts(machine.device)
        if stage == "smoke"
        else speed.list_parts(machine.device, machine.peak_flops, rehearsed=options.rehearse)
    )
    return run_parts(parts, results, clock)


def _run_ladder(
    options: argparse.Namespace, machine: Machine, folders: list[Path], clock: Clock
) -> int:
    from benchmarks.gpu import ladder
    from benchmarks.ladder import students

    if options.rehearse:
        with tempfile.TemporaryDirectory() as folder:
            return ladder.run(ladder.make_rehearsal(Path(folder), machine.device), folders, clock)
    if options.data is None:
        print("missing: --data, the folder that holds the data sets' folders")
        return CANNOT
    try:  # once, before there are processes that would
        for name in (options.student, "minilm"):
            print(f"{name}: {students.get_checkpoint(name, options.models)}", flush=True)
    except NotFound as error:
        print(f"missing: {error.message}")
        return CANNOT
    plan = ladder.LadderPlan(
        options.data, options.models,
        ladder.make_conditions(machine.device, student=options.student, flops=options.flops),
        options.seeds, options.processes,
    )  # fmt: skip
    return ladder.run(plan, folders, clock)


def _list_folders(options: argparse.Namespace) -> list[Path]:
    """Where results are written; what is in any of them is not done again."""
    out: Path = options.out or Path(os.environ.get("OUT") or options.kept)
    if options.rehearse or out == options.kept:
        return [out]
    return [out, options.kept]


def _rehearse(options: argparse.Namespace, machine: Machine) -> int:
    """All stages one after the other, in a new folder unless `--out` names one; the smoke stage
    twice, because the second call must find everything done; and the page."""
    from benchmarks.gpu import page

    with tempfile.TemporaryDirectory() as folder:
        options.out = options.out or Path(folder)
        codes = {}
        for stage in (*STAGES, "smoke"):
            clock = Clock(options.limit or float("inf"))
            codes[stage] = _run_stage(options, stage, machine, clock)
        print(page.render(options.out)[1])
    bad = [f"{stage} ended with {code}" for stage, code in codes.items() if code != WHOLE]
    print(f"rehearsed: {', '.join(bad) or 'every stage is whole'}")
    return FAILED if bad else WHOLE


def _write_page(options: argparse.Namespace) -> int:
    from benchmarks.gpu import page

    date, text = page.render(_list_folders(options)[0])
    target = options.page or Path("docs/results") / f"{date}-gpu.md"
    target.write_text(text)
    print(target)
    return WHOLE


if __name__ == "__main__":
    sys.exit(main())
