"""Sampling speed of student-lag negatives: ours against a plain `generate()` loop.

    python -m benchmarks.negatives [--questions 64] [--json FILE]

Both draw the same number of explanations from the same MiniLM student with a new decoder (weights
untrained, so nearly every sample runs to the limit) at temperature 1.5. The loop takes the
questions in order, eight at a time, as an example script would; ours sorts them by length
into batches of 64. A ratio is the median over rounds of the round's own ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.step_cost.fixtures import SEED, WORDS
from qcrd.cli.stack.home import install_base_model
from qcrd.method.prompts import EXPLAIN_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.student.loading import load_student
from qcrd.method.training import weight_history
from qcrd.records.specs.training_spec import Hyperparameters, StudentSpec

NEW_TOKENS, LOOP_BATCH, TEMPERATURE = 48, 8, 1.5


def sample_product(student: Student, questions: list[tuple[str, str]]) -> int:
    """Tokens that the product's sampler generates for (id, question) pairs."""
    samples = weight_history.sample_rationales(
        student,
        questions,
        n=1,
        temperature=TEMPERATURE,
        max_new_tokens=NEW_TOKENS,
        seed=SEED,
        tag="b",
    )
    return sum(
        _count_tokens(student, r.text) for rationales in samples.values() for r in rationales
    )


def sample_generate_loop(student: Student, questions: list[tuple[str, str]]) -> int:
    """Tokens that `model.generate` generates, eight questions at a time, in order."""
    tokens = 0
    torch.manual_seed(SEED)
    student.model.eval()
    for start in range(0, len(questions), LOOP_BATCH):
        texts = [EXPLAIN_PREFIX + text for _, text in questions[start : start + LOOP_BATCH]]
        batch = student.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            ids = student.model.generate(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, do_sample=True,
                temperature=TEMPERATURE, top_k=0, top_p=1.0, max_new_tokens=NEW_TOKENS,
            )  # fmt: skip
        outputs = student.tokenizer.batch_decode(ids, skip_special_tokens=True)
        tokens += sum(_count_tokens(student, text) for text in outputs)
    return tokens


def _count_tokens(student: Student, text: str) -> int:
    return len(student.tokenizer(text, add_special_tokens=False).input_ids)


def measure(models: Path, questions: int, rounds: int) -> dict[str, Any]:
    install_base_model(models)
    student = load_student(models / "all-MiniLM-L6-v2", StudentSpec(), Hyperparameters(), seed=SEED)
    rng = random.Random(SEED)
    prompts = [
        (str(i), " ".join(rng.choices(WORDS, k=rng.randint(15, 60)))) for i in range(questions)
    ]
    rates: dict[str, list[float]] = {"ours": [], "loop": []}
    contenders = {"ours": sample_product, "loop": sample_generate_loop}
    for run in contenders.values():  # warm-up
        run(student, prompts[:LOOP_BATCH])
    for _ in range(rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            tokens = run(student, prompts)
            rates[name].append(tokens / (time.perf_counter() - started))
    ratios = sorted(a / b for a, b in zip(rates["ours"], rates["loop"], strict=True))
    return {
        "ratios": {"sampling_over_generate_loop": statistics.median(ratios)},
        "ranges": {"sampling_over_generate_loop": [ratios[0], ratios[-1]]},
        "tokens_per_second": {name: statistics.median(found) for name, found in rates.items()},
        "conditions": {
            "student": "all-MiniLM-L6-v2 with a new decoder of 2 layers",
            "questions": questions, "new_tokens": NEW_TOKENS, "temperature": TEMPERATURE,
            "rounds": rounds, "threads": torch.get_num_threads(), "cores": os.cpu_count(),
            "torch": torch.__version__, "seed": SEED,
        },
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How fast negatives are sampled.")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", type=Path, default=Path.home() / ".qcrd/models")
    options = parser.parse_args(argv)
    results = measure(options.models, options.questions, options.rounds)
    for name, value in results["ratios"].items():
        low, high = results["ranges"][name]
        rates = results["tokens_per_second"]
        print(
            f"{name}: {value:.2f} (rounds: {low:.2f} to {high:.2f}); "
            f"{rates['ours']:.0f} against {rates['loop']:.0f} tokens per second"
        )
    print("conditions:", json.dumps(results["conditions"]))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
