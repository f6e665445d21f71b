"""A preview of what a job makes of its files, in notes."""

from __future__ import annotations

from qcrd.cli.output.terminal import print_note
from qcrd.questions.preview import MAX_READ_ROWS, Preview

MAX_SHOWN_CHARS = 300
FIRST_ROWS = f" of its first {MAX_READ_ROWS:,} questions"


def print_preview(preview: Preview) -> None:
    for param, each in preview.files.items():
        print_note(
            f"{param}: {each.records:,} records read, {each.questions:,} questions, "
            f"{each.labelled:,} labelled"
        )
        for sentence in each.told:
            print_note(f"{param}: {sentence}")
    counts, training = preview.counts, preview.files["training_file"]
    if counts is not None:
        is_whole = training.questions <= MAX_READ_ROWS
        print_note(
            f"rationales{'' if is_whole else FIRST_ROWS}: {counts.parsed:,} read, "
            f"{counts.unparseable:,} unread"
        )
    for asked, learned in preview.first:
        print_note(f"the student is asked {_shorten(asked)} and learns {_shorten(learned)}")
    if preview.depends_on_base:
        print_note(
            "where the base is a decoder the job is created with `student.answers: reasoned`: it "
            "then learns its rationale and the answer in one"
        )
    for message in preview.warnings:
        print_note(f"warning: {message}")


def _shorten(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…")
