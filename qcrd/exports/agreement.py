"""Whether an export answers as its student: the same tokens, or the same labels of a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcrd.errors import Invalid
from qcrd.exports.original import GreedyOutput, OriginalStudent
from qcrd.method.answers import canonical
from qcrd.method.prompts import format_question
from qcrd.records.rationales import Question
from qcrd.records.specs.task import AnswerKind, TaskSpec

QUESTIONS = (
    "What kind of thing is a hammer?",
    "Tom has 12 apples, gives away 5 and buys 1,250 more for $3.75 each. How many are left?",
    "Is the Río de la Plata wider than 200 km — or isn't it?\nAnswer with   one word.",
    "naïve café 東京 ½ 😀 don't it's WE'LL x=3*(y-1)",
)
"""What a student is asked where no questions are given: words, numbers, other scripts, spaces."""
PROGRESS = "progress: "
"""Before each line on standard error that says how far it is."""
TOLD_EVERY = 20
"""Answers between two such lines: each takes seconds on a CPU."""
MIN_SAME_LABELS, MAX_ACCURACY_LOSS = 0.98, 0.01
"""Of the questions of a file, as the difference of shares."""

Generate = Callable[[Sequence[int], Sequence[int]], Sequence[int]]
"""(a prompt's tokens, those of its output so far) -> how an export goes on, greedily."""


@dataclass(frozen=True)
class LabelledQuestion:
    question: Question
    label: str | None


def read_questions(path: Path) -> list[LabelledQuestion]:
    """The `question`, `label` and `choices` of each JSON line. `Invalid` for other files."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            choices = tuple(row.get("choices") or ())
            question = Question(id=f"line-{number}", text=row["question"], choices=choices)
            label = row.get("label")
            found.append(LabelledQuestion(question, None if label is None else str(label)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(
            f"--questions: {path} is not JSON lines that each have a `question`: {error}",
            param="questions",
        ) from error
    if not found:
        raise Invalid(f"--questions: {path} has no question", param="questions")
    return found


@dataclass(frozen=True)
class TokenAgreement:
    """Of one prompt: the places at which another token was said, and by how much the student's own
    one was above the next there."""

    tokens: int
    differences: tuple[tuple[int, float], ...]


def compare_tokens(
    prompt: Sequence[int], expected: GreedyOutput, generate: Generate
) -> TokenAgreement:
    """An export's tokens against its student's, all along the student's output: behind a
    difference the export goes on from what the student said."""
    differences = list[tuple[int, float]]()
    place, n_tokens = 0, len(expected.tokens)
    while place < n_tokens:
        said = generate(prompt, expected.tokens[:place])
        rest = expected.tokens[place:]
        same = _count_common(rest, said)
        place += same
        if place < n_tokens:
            differences.append((place, expected.margins[place]))
            place += 1
    return TokenAgreement(n_tokens, tuple(differences))


def _count_common(tokens: Sequence[int], others: Sequence[int]) -> int:
    """How many are the same before the first that are not."""
    pairs = zip(tokens, others, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(others)))


def check_tokens(
    original: OriginalStudent, questions: Iterable[str], generate: Generate, *, tie: float
) -> str:
    """A sentence on the outputs of both. `Invalid` where they differ and the student was not about
    to say the other: its two best logits are at least `tie` apart."""
    n_tokens = ties = 0
    for question in questions:
        prompt = original.tokenize(question)
        expected = original.generate(prompt)
        agreement = compare_tokens(prompt, expected, generate)
        n_tokens, ties = n_tokens + agreement.tokens, ties + len(agreement.differences)
        for place, margin in agreement.differences:
            if margin >= tie:
                told = original.decode(expected.tokens[:place])
                raise Invalid(
                    f"--format: the export does not answer as its student: asked {question!r}, it "
                    f"says another token than the student behind {told!r}; nothing was written",
                    param="format",
                    code="export_differs",
                )
    told = f"the same greedy tokens as transformers at {n_tokens - ties} of {n_tokens} places"
    return told + (f", and at the other {ties} the two best are within {tie:g}" if ties else "")


def check_labels(
    original: OriginalStudent, rows: Sequence[LabelledQuestion], generate: Generate
) -> str:
    """A sentence on the answers of both to a file's questions. `Invalid` where too many differ."""
    task = _make_task(original)
    same = right = right_before = labelled = 0
    for done, row in enumerate(rows):
        if done % TOLD_EVERY == 0:
            print(f"{PROGRESS}{done} of {len(rows)} answers compared", file=sys.stderr, flush=True)
        prompt = original.tokenize(format_row(row))
        before, after = (
            canonical(original.read_answer(tokens), task, row.question)
            or original.read_answer(tokens)
            for tokens in (original.generate(prompt).tokens, generate(prompt, ()))
        )
        same += before == after
        if row.label is not None:
            gold = canonical(row.label, task, row.question) or row.label
            labelled += 1
            right_before, right = right_before + (before == gold), right + (after == gold)
    told = f"the same answer for {same} of {len(rows)} questions"
    if labelled:
        told += f", {right} of {labelled} right (before: {right_before})"
    lost = (right_before - right) / labelled if labelled else 0.0
    if same < MIN_SAME_LABELS * len(rows) or lost > MAX_ACCURACY_LOSS:
        raise Invalid(
            f"--format: the export does not answer as its student: {told}; nothing was written",
            param="format",
            code="export_differs",
        )
    return told


def _make_task(original: OriginalStudent) -> TaskSpec:
    form = original.prompt_format
    if form.answer is None or (form.answer is AnswerKind.LABEL and not form.labels):
        return TaskSpec(answer=AnswerKind.TEXT)
    return TaskSpec.model_validate({"answer": form.answer, "labels": form.labels})


def format_row(row: LabelledQuestion) -> str:
    """The question as the student is asked it: with its choices where it has any."""
    kind = AnswerKind.CHOICE if row.question.choices else AnswerKind.TEXT
    return format_question(TaskSpec(answer=kind), row.question)
