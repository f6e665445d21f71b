"""Reasoning: students that reason first against students of labels, at equal compute."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import reasoning
from benchmarks.gpu import ladder
from benchmarks.gpu.results import CANNOT, UNFINISHED, WHOLE, Clock

SECONDS = 540.0
FILE = "reasoning.jsonl"
TINY = ["--student", "smollm2-1", "--train", "6", "--validate", "2", "--test", "2", "--seeds", "0"]


def run(
    folder: Path, clock: Clock, *, device: str, rehearsed: bool, data: Path | None, models: Path
) -> int:
    """Make the runs that are not in `folder` yet until the time is up; the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["--out", str(folder / FILE), "--device", device]
    if rehearsed:
        with tempfile.TemporaryDirectory() as made:
            plan = ladder.make_rehearsal(Path(made), device)
            where = ["--data", str(plan.data), "--models", str(plan.models)]
            return _run([*arguments, *where, *TINY], clock)
    if data is None:
        print("missing: --data, the folder that holds the data sets' folders")
        return CANNOT
    return _run([*arguments, "--data", str(data), "--models", str(models)], clock)


def _run(arguments: list[str], clock: Clock) -> int:
    options = reasoning.parse_arguments(arguments)
    is_whole = reasoning.run_all(options, lambda: clock.left)
    print(reasoning.render_markdown(reasoning.table.read_results(options.out)))
    return WHOLE if is_whole else UNFINISHED
