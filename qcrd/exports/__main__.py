"""`python -m qcrd.exports FORMAT FOLDER TARGET`: what `qcrd models export` runs.

In a process of its own, since it loads torch. It prints one line of JSON: what was checked, or why
there is no export.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import transformers

from qcrd.errors import QcrdError
from qcrd.exports.agreement import LabelledQuestion, read_questions
from qcrd.exports.formats import EXPORTS, ExportFormat
from qcrd.exports.original import OriginalStudent
from qcrd.records.base import Record


class ExportOutcome(Record):
    """`checked`: how the export was compared with its student; `error` in its place."""

    files: tuple[str, ...] = ()
    checked: str = ""
    error: str | None = None


def export_student(
    export_format: ExportFormat,
    folder: Path,
    target: Path,
    questions: list[LabelledQuestion],
    models: Path | None,
) -> ExportOutcome:
    """Write the export into the new folder `target`: all of it, once it is checked, or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".exporting-") as scratch:
        made = Path(scratch) / target.name
        made.mkdir()
        checked = EXPORTS[export_format](OriginalStudent(folder), made, questions, models)
        files = sorted(str(p.relative_to(made)) for p in made.rglob("*") if p.is_file())
        made.replace(target)
    return ExportOutcome(files=tuple(files), checked=checked)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a student in another format.")
    parser.add_argument("format", choices=[each.value for each in ExportFormat])
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--models", type=Path, help="folder of base models")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        questions = [] if options.questions is None else read_questions(options.questions)
        outcome = export_student(
            ExportFormat(options.format), options.folder, options.target, questions, options.models
        )
    except QcrdError as error:
        outcome = ExportOutcome(error=error.message)
    print(json.dumps(outcome.model_dump(mode="json")))


if __name__ == "__main__":
    main()
