"""Rows that a study may name: methods under the settings that make them another objective.

Each has its source here. A row of one's own is a `StudyMethod` in a study's `methods`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from qcrd.records.base import Record
from qcrd.records.specs.spec import Baseline

OWN_SECTIONS = (
    "label_mode",
    "rationales",
    "positives",
    "negatives",
    "discriminator",
    "loss",
    "student",
    "hyperparameters",
)
"""Of `method.<type>`, what a row may set for itself: what is asked, and how answers are measured,
is the same for all."""


class StudyMethod(Record):
    """A row of a study's table: a method, with settings of its own over those of the study's job.

    With `rationales` or `label_mode` of its own it has a rationale set of its own, which the other
    rows of that kind share.
    """

    name: Annotated[str, Field(max_length=64, pattern=r"^\w([\w .+\-=(),:/%]*[\w)%+])?$")]
    """In the table: letters, digits, spaces within, and `._+-=(),:/%`."""
    method: Baseline
    """What is trained."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Sections of `method.<type>`, field by field over the job's."""


class NamedRow(StrEnum):
    """Rows that stand for a method and settings, which `ROWS` has."""

    DSS_UNFILTERED = "dss_unfiltered"
    SEQUENCE_LEVEL = "sequence_level"
    REJECTION_SAMPLING = "rejection_sampling"
    STAR = "star"
    DIFFICULTY = "difficulty"
    UNLIKELIHOOD = "unlikelihood"
    DPO = "dpo"
    OTHER_QUESTIONS = "other_questions"
    SAMPLING_PAID = "sampling_paid"
    JUDGE_CONSTANT = "judge_constant"
    JUDGE_SHUFFLED = "judge_shuffled"
    JUDGE_GOLD = "judge_gold"


_WITH_NEGATIVES = Baseline.DSS_NEGATIVES

ROWS: Mapping[NamedRow, tuple[Baseline, Mapping[str, Any]]] = MappingProxyType(
    {
        NamedRow.DSS_UNFILTERED: (
            Baseline.DSS,
            {"rationales": {"n": 1, "positive_rule": "all"}},
        ),
        NamedRow.SEQUENCE_LEVEL: (
            Baseline.SINGLE_TASK,
            {
                "label_mode": "llm",
                "rationales": {"n": 1, "temperature": 0, "positive_rule": "all"},
            },
        ),
        NamedRow.REJECTION_SAMPLING: (Baseline.DSS_POSITIVES, {"loss": {"scheme": "mean"}}),
        NamedRow.STAR: (
            _WITH_NEGATIVES,
            {
                "positives": {"source": "student"},
                "negatives": {
                    "source": "student_lag",
                    "lag": 1,
                    "n": 4,
                    "temperature": 0.7,
                    "filter": "wrong_only",
                    "keep_right": True,
                },
                "loss": {"beta": 0, "scheme": "mean"},
            },
        ),
        NamedRow.DIFFICULTY: (Baseline.DSS_POSITIVES, {"positives": {"select": "difficulty"}}),
        NamedRow.UNLIKELIHOOD: (_WITH_NEGATIVES, {"loss": {"contrast": "unlikelihood"}}),
        NamedRow.DPO: (_WITH_NEGATIVES, {"loss": {"contrast": "dpo"}}),
        NamedRow.OTHER_QUESTIONS: (_WITH_NEGATIVES, {"negatives": {"control": "other_question"}}),
        NamedRow.SAMPLING_PAID: (_WITH_NEGATIVES, {"loss": {"beta": 0}}),
        NamedRow.JUDGE_CONSTANT: (Baseline.QCRD, {"discriminator": {"control": "constant"}}),
        NamedRow.JUDGE_SHUFFLED: (Baseline.QCRD, {"discriminator": {"control": "shuffled"}}),
        NamedRow.JUDGE_GOLD: (Baseline.QCRD, {"discriminator": {"control": "gold"}}),
    }
)
"""Row -> what is trained, and its settings.

- `dss_unfiltered`: distilling step by step as it was published, on one sample of the teacher per
  question whatever it answers (Hsieh et al. 2023, arXiv:2305.02301). `dss` is that on the vote's
  first rationale.
- `sequence_level`: the teacher's greedy output, rationale and its own answer in one (Kim and Rush
  2016, arXiv:1606.07947).
- `rejection_sampling`: every right rationale, their plain mean, no contrast (Yuan et al. 2023,
  arXiv:2308.01825). Right is what the study's `positive_rule` says.
- `star`: the student's own right samples and none of the teacher's, sampled anew in each iteration
  from the student of the one before (Zelikman et al. 2022, arXiv:2203.14465, without its hints and
  without beginning anew).
- `difficulty`: a choice of the right rationales before the training (Yan et al. 2025,
  arXiv:2509.23574).
- `unlikelihood` (Welleck et al. 2020, arXiv:1908.04319) and `dpo` (Rafailov et al. 2023,
  arXiv:2305.18290): other losses on the pairs that the study's negatives make.
- `other_questions`: as likely negatives about something else. `sampling_paid`: negatives that are
  sampled, paid for and weigh nothing.
- `judge_constant`, `judge_shuffled`, `judge_gold`: another's scores in the judge's place.
"""
