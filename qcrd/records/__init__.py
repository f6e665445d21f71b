"""The frozen vocabulary: what crosses a process boundary, and nothing that computes.

Every record refuses unknown keys, so a misspelt key in a job's spec is reported with its path
instead of being ignored. `method` and `runtime` both speak these types; neither knows the other.
"""

from __future__ import annotations

from qcrd.records.base import (
    R,
    Record,
    parse,
)
from qcrd.records.job import (
    Accuracy,
    Event,
    Failure,
    Job,
    Lease,
    ModelRef,
    Progress,
    PublishedModel,
    Report,
    Stage,
    Status,
    StoredFile,
    Usage,
)
from qcrd.records.knowledge import (
    Prediction,
    Question,
    Rationale,
    RationaleCounts,
    RationaleItem,
    RationaleManifest,
    Source,
    TestItem,
    Vote,
)
from qcrd.records.spec import (
    AnswerKind,
    Baseline,
    Example,
    Hyperparameters,
    JobSpec,
    JudgeSpec,
    LossSpec,
    MethodName,
    MethodSpec,
    NegativeSource,
    NegativeSpec,
    RationaleSpec,
    Scheme,
    StudentSpec,
    TaskSpec,
)

__all__ = [
    "Accuracy",
    "AnswerKind",
    "Baseline",
    "Event",
    "Example",
    "Failure",
    "Hyperparameters",
    "Job",
    "JobSpec",
    "JudgeSpec",
    "Lease",
    "LossSpec",
    "MethodName",
    "MethodSpec",
    "ModelRef",
    "NegativeSource",
    "NegativeSpec",
    "Prediction",
    "Progress",
    "PublishedModel",
    "Question",
    "R",
    "Rationale",
    "RationaleCounts",
    "RationaleItem",
    "RationaleManifest",
    "RationaleSpec",
    "Record",
    "Report",
    "Scheme",
    "Source",
    "Stage",
    "Status",
    "StoredFile",
    "StudentSpec",
    "TaskSpec",
    "TestItem",
    "Usage",
    "Vote",
    "parse",
]
