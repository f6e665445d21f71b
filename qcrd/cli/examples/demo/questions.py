"""Write the demo task: name the category of an everyday thing.

    python examples/demo/questions.py [--out DIR] [--seed 0] [--train 12] [--test 24]

writes DIR/train.jsonl, one {"question": ...} a line, and DIR/test.jsonl with labels, from the word
lists of things.yaml. --train and --test count things per category; no thing is in both files.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import yaml

HERE = Path(__file__).parent
WORDINGS = (
    "What kind of thing is {}?",
    "What sort of thing is {}?",
    "Which category does {} belong to?",
    "What type of thing is {}?",
    "How would you classify {}?",
)

Row = dict[str, str]


def phrases(things: str, *, article: bool) -> list[str]:
    """The things as noun phrases, in the list's order."""
    made = []
    for word in (part.strip() for part in things.split(",")):
        # No word in the list begins with a u that is said as a vowel.
        said = f"{'an' if word[0] in 'aeio' else 'a'} {word}"
        made.append(said if article and not word.startswith("~") else word.removeprefix("~"))
    return made


def build(seed: int, n_train: int, n_test: int) -> tuple[list[Row], list[Row]]:
    """Draw n_train and n_test disjoint things per category and word a question about each. What is
    trained on has no label: the teacher's vote is all that the student learns from."""
    rng = random.Random(seed)
    train: list[Row] = []
    test: list[Row] = []
    table = yaml.safe_load((HERE / "things.yaml").read_text(encoding="utf-8"))
    for category, entry in table.items():
        drawn = phrases(entry["things"], article=entry["article"])
        if len(drawn) < n_train + n_test:
            raise ValueError(f"{category}: {len(drawn)} things, {n_train + n_test} asked for")
        rng.shuffle(drawn)
        for position, thing in enumerate(drawn[: n_train + n_test]):
            row = {"question": rng.choice(WORDINGS).format(thing), "label": category}
            (train if position < n_train else test).append(row)
    rng.shuffle(train)
    rng.shuffle(test)
    return [{"question": row["question"]} for row in train], test


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo task.")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=12, help="things per category to train on")
    parser.add_argument("--test", type=int, default=24, help="things per category to test on")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    made = build(given.seed, given.train, given.test)
    for name, rows in zip(("train", "test"), made, strict=True):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (given.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{name}.jsonl: {len(rows)} questions")


if __name__ == "__main__":
    main()
