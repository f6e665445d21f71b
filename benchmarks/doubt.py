"""How well a published student's confidence tells what it can answer from what it cannot.

    python -m benchmarks.doubt MODEL --test FILE [--json FILE]

MODEL is the student's folder (`qcrd models download`), FILE has lines with `question` and `label`.
Beside them it is asked as many sums (two numbers, four operations, five wordings, seed 0). Told are
AUROCs, with bootstrap intervals over questions: a right answer above a wrong one, and a question
of the task above a sum.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qcrd.method.judge.health import auc
from qcrd.method.student import generation
from qcrd.method.student.generation import OutputForm
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


def make_sums(count: int) -> list[str]:
    rng = random.Random(0)
    return [
        rng.choice(WORDINGS).format(
            a=rng.randint(1, 99), sign=rng.choice("+-*/"), b=rng.randint(1, 99)
        )
        for _ in range(count)
    ]


def ask(folder: Path, prompt_format: PromptFormat, questions: Sequence[str]) -> list[dict]:
    """Label, confidence and text of each answer."""
    confidence = prompt_format.confidence
    assert confidence is not None, "the student has no confidence"
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    form = OutputForm(prompt_format.answer_form, mark=confidence.mark, tells_answers=True)
    settings = generation.make_settings(prompt_format.max_new_tokens, 0.0, 1.0)
    found: dict[int, dict] = {}
    order = sorted(range(len(questions)), key=lambda i: len(questions[i]))
    for start in range(0, len(order), ROWS):
        places = order[start : start + ROWS]
        prompts = [prompt_format.format_prompt(prompt_format.predict, questions[i]) for i in places]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            rows = generation.generate(
                model,
                batch.input_ids,
                batch.attention_mask,
                settings,
                start=batch.input_ids.shape[1],
                form=form,
            )
        for i, row in zip(places, rows, strict=True):
            text = tokenizer.decode(row.tokens, skip_special_tokens=True)
            found[i] = {
                "question": questions[i],
                "text": text,
                "label": prompt_format.split_output(text)[1],
                "confidence": confidence.compute_single(row.answer_logprob),
            }
    return [found[i] for i in range(len(questions))]


def measure_auroc(above: Sequence[float], below: Sequence[float]) -> str:
    value = auc(above, below)
    if value is None:
        return "not measured: one side is empty"
    rng = np.random.default_rng(0)
    a, b = np.array(above), np.array(below)
    drawn = [
        auc(list(rng.choice(a, len(a))), list(rng.choice(b, len(b)))) or 0.0 for _ in range(DRAWS)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{value:.3f} [{low:.3f}, {high:.3f}] ({len(a)} above {len(b)})"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How far a student's confidence can be trusted.")
    parser.add_argument("model", type=Path, help="the student's folder")
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    lines = [json.loads(line) for line in options.test.read_text().splitlines()]
    prompt_format = load_prompt_format(options.model)
    asked = [line["question"] for line in lines] + make_sums(len(lines))
    answers = ask(options.model, prompt_format, asked)
    own, sums = answers[: len(lines)], answers[len(lines) :]
    right = [a["label"] == line["label"] for a, line in zip(own, lines, strict=True)]
    values = [a["confidence"] for a in own]
    told = [value for value, is_right in zip(values, right, strict=True) if is_right]
    untold = [value for value, is_right in zip(values, right, strict=True) if not is_right]
    print(f"right: {sum(right)} of {len(right)}")
    print("a right answer above a wrong one:", measure_auroc(told, untold))
    print("the task above sums:", measure_auroc(values, [a["confidence"] for a in sums]))
    for answer in sums[:5]:
        text = answer["text"].strip().replace("\n", " / ")
        print(f"  {answer['question']}  {answer['confidence']:.3f}  {text}")
    if options.json:
        options.json.write_text(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
