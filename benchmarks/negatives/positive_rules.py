"""What each `rationales.positive_rule` makes of published teacher outputs.

    python -m benchmarks.negatives.positive_rules --data FOLDER

FOLDER has a folder per data set with `train.jsonl`. For each rule: questions with a positive,
positives, those that have another answer than the label, and questions with both sides, which alone
train a judge that compares.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.ladder.data import DATASETS
from qcrd.method.answers import canonical
from qcrd.questions import labelling
from qcrd.questions.rows import QuestionRow, read_rows
from qcrd.records.specs.rationale_spec import RationaleSpec
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.task import AnswerKind, TaskSpec

TASKS = {
    "svamp": DATASETS["svamp"].task,
    "cqa": TaskSpec(answer=AnswerKind.CHOICE),
    "tracking": DATASETS["tracking"].task,
}
RULES = ("majority", "gold", "majority_and_gold")
COLUMNS = ("with_positive", "positives", "positives_wrong", "both_sides")


def count(rows: list[QuestionRow], task: TaskSpec, rule: str) -> dict[str, int]:
    rationales = RationaleSpec.model_validate({"import": "train.jsonl", "positive_rule": rule})
    spec = MethodSpec(task=task, rationales=rationales)
    totals = dict.fromkeys(COLUMNS, 0)
    for row in rows:
        item = labelling.build_item(row.question, row.outputs, spec)
        gold = canonical(row.question.label or "", task, row.question)
        totals["with_positive"] += bool(item.positives)
        totals["positives"] += len(item.positives)
        totals["positives_wrong"] += sum(one.answer != gold for one in item.positives)
        totals["both_sides"] += bool(item.positives and item.negatives)
    return totals


def measure(folder: Path) -> dict[str, dict[str, dict[str, int]]]:
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name, task in TASKS.items():
        with (folder / name / "train.jsonl").open("rb") as body:
            rows = list(read_rows(body))
        found[name] = {rule: count(rows, task, rule) for rule in RULES}
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What each positive rule makes of outputs.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    found = measure(options.data)
    print(f"{'data':10} {'rule':18} " + " ".join(f"{column:>16}" for column in COLUMNS))
    for name, rules in found.items():
        for rule, counts in rules.items():
            cells = " ".join(f"{counts[column]:>16,}" for column in COLUMNS)
            print(f"{name:10} {rule:18} {cells}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
