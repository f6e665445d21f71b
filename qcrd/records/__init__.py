"""Immutable records exchanged between processes, without any computation.

Every record rejects unknown keys, so a misspelt key in a job's spec is reported with its path.
`method` and `runtime` both use these types and do not depend on each other.
"""

# What a caller of `qcrd.method.answers.parse_output` from outside this repository needs; inside it,
# names are imported from the modules that define them.
from qcrd.records.rationales import Question as Question
from qcrd.records.specs.task import TaskSpec as TaskSpec
