"""Types of models that can be a student, and how the questions of each are read.

The table is measured: a tiny model of every type that transformers knows is compared, loss and
gradient, with one plain sequence per question and output.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict

TABLE_FILE = "student_families.json"

Reading = Literal["packed", "pairs", "seq2seq"]
"""`packed`: a question and its outputs in one sequence; `pairs`: one sequence per output;
`seq2seq`: the encoder's states are shared by the outputs."""


class StudentFamilies(BaseModel):
    """`model_type` of transformers, by how it is read; `refused` says why others are not."""

    model_config = ConfigDict(frozen=True)

    packed: frozenset[str]
    pairs: frozenset[str]
    seq2seq: frozenset[str]
    refused: dict[str, str]

    def find_reading(self, model_type: str) -> Reading | None:
        """None for a type that is refused or unknown, and for encoders, which get a new decoder."""
        if model_type in self.packed:
            return "packed"
        if model_type in self.pairs:
            return "pairs"
        return "seq2seq" if model_type in self.seq2seq else None


@cache
def load_student_families() -> StudentFamilies:
    text = (files("qcrd.records") / TABLE_FILE).read_text(encoding="utf-8")
    return StudentFamilies.model_validate(json.loads(text))
