"""Which signals of a published student tell what it can answer from what it cannot.

    python -m benchmarks.doubt MODEL --test FILE [--other FILE …] [--questions N] [--json FILE]

MODEL is the folder of a decoder-only student that answers behind its rationale (`qcrd models
download`), FILE has lines with `question` and `label`. Beside the test it is asked as many sums
(two numbers, four operations, five wordings, seed 0) and the first N questions of each `--other`
file, which is of another task. Told are AUROCs with bootstrap intervals over questions: a right
answer above a wrong one, and a question of the task above one that is not. The first signal is the
one that its confidence is made of.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.ladder.table import format_row
from qcrd.errors import Invalid
from qcrd.method.judge.health import auc
from qcrd.method.student import generation
from qcrd.method.student.enforcement import AnswerEnforcer
from qcrd.method.student.generation import ChosenRecorder
from qcrd.records.students.confidence import Confidence, sum_answer_logprobs
from qcrd.records.students.prompt_format import PromptFormat
from qcrd.runtime.storage.prompt_formats import load_prompt_format

ROWS, DRAWS = 32, 2000
WORDINGS = (
    "What is {a} {sign} {b}?",
    "How much is {a} {sign} {b}?",
    "Calculate {a} {sign} {b}.",
    "What do you get for {a} {sign} {b}?",
    "{a} {sign} {b} = ?",
)
SIGNALS = {
    "answer_free": "answer, free",
    "answer_held": "answer, among what it was held to",
    "rationale_mean": "rationale, mean of its tokens",
    "output_mean": "all of the output, mean of its tokens",
}
NOTHING = -1e9
"""Of an output without an answer, or without a rationale."""


@dataclass(frozen=True)
class Answer:
    """An output to a question, its label, and its signals: log-probabilities."""

    question: str
    text: str
    label: str
    confidence: float
    answer_free: float
    answer_held: float
    rationale_mean: float
    output_mean: float


def make_sums(count: int) -> list[str]:
    rng = random.Random(0)
    return [
        rng.choice(WORDINGS).format(
            a=rng.randint(1, 99), sign=rng.choice("+-*/"), b=rng.randint(1, 99)
        )
        for _ in range(count)
    ]


class Asked:
    """The student, asked in batches of like lengths."""

    def __init__(self, folder: Path) -> None:
        self.prompt_format: PromptFormat = load_prompt_format(folder)
        if self.prompt_format.confidence is None or self.prompt_format.answer_form is None:
            raise Invalid(f"{folder}: a student that reasons first and has a confidence is needed")
        self.confidence: Confidence = self.prompt_format.confidence
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def ask(self, questions: Sequence[str]) -> list[Answer]:
        order = sorted(range(len(questions)), key=lambda i: len(questions[i]))
        found: dict[int, Answer] = {}
        for start in range(0, len(order), ROWS):
            places = order[start : start + ROWS]
            answers = self._ask_batch([questions[i] for i in places])
            found |= zip(places, answers, strict=True)
        return [found[i] for i in range(len(questions))]

    @torch.no_grad()
    def _ask_batch(self, questions: Sequence[str]) -> list[Answer]:
        form = self.prompt_format
        prompts = [form.format_prompt(form.predict, question) for question in questions]
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True)
        start = batch.input_ids.shape[1]
        free, held = ChosenRecorder(), ChosenRecorder()
        assert form.answer_form is not None
        output = self.model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            logits_processor=[
                free,
                AnswerEnforcer(form.answer_form, [start] * len(batch.input_ids)),
                held,
            ],
            **generation.make_settings(form.max_new_tokens, 0.0, 1.0),
        )
        rows = generation.trim(output[:, start:], self.model.generation_config)
        logprobs = zip(free.finish(output), held.finish(output), strict=True)
        return [
            self._measure(question, tokens, *(own[: len(tokens)] for own in both))
            for question, (tokens, _), both in zip(questions, rows, logprobs, strict=True)
        ]

    def _measure(
        self, question: str, tokens: list[int], free: list[float], held: list[float]
    ) -> Answer:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        mark = self.confidence.mark
        answer = sum_answer_logprobs(tokens, free, mark)
        answer_held = sum_answer_logprobs(tokens, held, mark)
        rationale, label = self.prompt_format.split_output(text)
        # The answer is at the end, as many tokens as its log-probabilities are summed of.
        before = _count_before(tokens, mark)
        return Answer(
            question,
            text,
            label,
            self.confidence.compute_single(answer),
            NOTHING if answer is None else answer,
            NOTHING if answer_held is None else answer_held,
            sum(free[:before]) / before if rationale and before else NOTHING,
            sum(free) / len(free),
        )


def _count_before(tokens: Sequence[int], mark: Sequence[int]) -> int:
    """Tokens before the last mark."""
    width = len(mark)
    places = range(len(tokens) - width, -1, -1)
    return next((i for i in places if tuple(tokens[i : i + width]) == tuple(mark)), 0)


def measure_auroc(above: Sequence[float], below: Sequence[float]) -> str:
    value = auc(above, below)
    if value is None:
        return "one side is empty"
    rng = np.random.default_rng(0)
    a, b = np.array(above), np.array(below)
    drawn = [
        auc(list(rng.choice(a, len(a))), list(rng.choice(b, len(b)))) or 0.0 for _ in range(DRAWS)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def render_table(
    own: Sequence[Answer], right: Sequence[bool], others: Mapping[str, Sequence[Answer]]
) -> str:
    """A row per signal."""
    n_right = sum(right)
    columns = [f"right above wrong ({n_right}, {len(own) - n_right})"]
    columns += [f"the task above {name} ({len(own)}, {len(a)})" for name, a in others.items()]
    rows = [["signal", *columns], ["---"] * (len(columns) + 1)]
    for signal, title in SIGNALS.items():
        values = [getattr(answer, signal) for answer in own]
        told = [value for value, is_right in zip(values, right, strict=True) if is_right]
        untold = [value for value, is_right in zip(values, right, strict=True) if not is_right]
        cells = [measure_auroc(told, untold)]
        cells += [
            measure_auroc(values, [getattr(answer, signal) for answer in answers])
            for answers in others.values()
        ]
        rows.append([title, *cells])
    return "\n".join(map(format_row, rows))


def _read_lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the student's folder")
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--other", type=Path, nargs="*", default=[], help="of other tasks")
    parser.add_argument("--questions", type=int, default=60, help="of each other file")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    asked, lines = Asked(options.model), _read_lines(options.test)
    own = asked.ask([line["question"] for line in lines])
    right = [a.label == line["label"] for a, line in zip(own, lines, strict=True)]
    others = {"sums": asked.ask(make_sums(len(lines)))}
    for path in options.other:
        questions = [line["question"] for line in _read_lines(path)[: options.questions]]
        others[f"{path.parent.name}/{path.name}"] = asked.ask(questions)
    print(f"{sum(right)} of {len(right)} right; torch {torch.__version__}\n")
    print(render_table(own, right, others), "\n")
    for answer in others["sums"][:5]:
        said = answer.text.replace("\n", " / ")
        print(f"  {answer.question}  {answer.confidence:.3f}  {said}")
    if options.json:
        answers = {"test": own, **others}
        found = {name: [asdict(one) for one in each] for name, each in answers.items()}
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
