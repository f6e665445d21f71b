"""Reading `qcrd.json` from a student's folder."""

from __future__ import annotations

import json
from pathlib import Path

from qcrd.errors import Invalid
from qcrd.records.base import parse_record
from qcrd.records.students.prompt_format import PROMPT_FORMAT_FILE, PromptFormat


def load_prompt_format(folder: Path) -> PromptFormat:
    """`Invalid` when there is no such file, or it is not what the trainer writes."""
    try:
        data = json.loads((folder / PROMPT_FORMAT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Invalid(f"{folder} is not a student: it has no {PROMPT_FORMAT_FILE}") from error
    except ValueError as error:
        raise Invalid(f"{folder / PROMPT_FORMAT_FILE} is not JSON: {error}") from error
    return parse_record(PromptFormat, data, root=PROMPT_FORMAT_FILE, extra="ignore")
