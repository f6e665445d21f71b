"""Distillation from a teacher's logits beside that from its texts, at equal compute.

    python -m benchmarks.logit_distillation TEACHER STUDENT --train FILE --test FILE
        [--seeds 0 1 2] [--steps N] [--rate R] [--json FILE]

TEACHER is the folder of a published decoder-only student that answers behind its rationale (`qcrd
models download`), STUDENT a base of the same tokenizer, or `smollm2-L`. FILE has lines with
`question` and, of the test, `label`. No server gives a teacher's distribution at every token of
what a student says, so the teacher runs in this process; `method.type: gkd` of a job is refused.

Rows, each the mean over seeds:

- `sequence_level`: cross entropy of the teacher's greedy outputs (Kim and Rush 2016);
- `logits`: forward KL to the teacher at each token of the same outputs;
- `gkd`: half of the batches are the student's own samples, Jensen-Shannon at beta .5 (Agarwal et
  al. 2023, arXiv:2306.13649).

`gkd` trains --steps steps and the others as many as its FLOPs allow, which count the teacher's and
the student's passes over a batch, and the student's sampling; the teacher's outputs, which all rows
share, are left out.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.ladder.students import get_checkpoint
from benchmarks.ladder.table import format_row
from qcrd.errors import Invalid
from qcrd.method import losses
from qcrd.method.compute import count_flops
from qcrd.method.evaluation.statistics import wilson_interval
from qcrd.method.student import generation
from qcrd.records.students.prompt_format import PromptFormat, split_joined_output
from qcrd.runtime.storage.prompt_formats import load_prompt_format

BATCH, ROWS, MAX_NEW_TOKENS = 16, 64, 40
BETA, OWN_SHARE = 0.5, 0.5
OBJECTIVES = ("gkd", "logits", "sequence_level")


@dataclass(frozen=True)
class Result:
    objective: str
    seed: int
    right: int
    n: int
    steps: int
    flops: float
    seconds: float


@dataclass
class Counted:
    """A model, and the work that it did: twice its parameters a token forward, six with a backward
    pass."""

    model: Any
    flops: float = 0.0

    def __post_init__(self) -> None:
        self.parameters = sum(p.numel() for p in self.model.parameters())

    def read(self, ids: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """Logits [P, V] at the P `places` [B, T] that are true: the output head, which is the
        largest matrix of a small model, sees no others."""
        self.flops += count_flops(self.parameters, int(mask.sum()))
        hook = self.model.get_output_embeddings().register_forward_pre_hook(
            lambda _, inputs: (inputs[0][places], *inputs[1:])
        )
        try:
            logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        finally:
            hook.remove()
        return logits

    @torch.no_grad()
    def say(self, tokenizer: Any, prompts: Sequence[str], temperature: float) -> list[list[int]]:
        """Tokens of an output to each prompt, with the end where it came."""
        found: list[list[int]] = []
        for start in range(0, len(prompts), ROWS):
            batch = tokenizer(
                list(prompts[start : start + ROWS]), return_tensors="pt", padding=True
            )
            width = batch.input_ids.shape[1]
            settings = generation.make_settings(MAX_NEW_TOKENS, temperature, 1.0)
            output = self.model.generate(**batch, **settings)
            rows = generation.trim(output[:, width:], self.model.generation_config)
            said = [tokens for tokens, _ in rows]
            read = int(batch.attention_mask.sum()) + sum(map(len, said))
            self.flops += count_flops(self.parameters, read)
            found += said
        return found


@dataclass
class Distillation:
    """One objective under one seed. `outputs` are the teacher's greedy ones, by question."""

    teacher: Counted
    student: Counted
    tokenizer: Any
    prompts: Sequence[str]
    outputs: Sequence[list[int]]
    objective: str
    seed: int
    rate: float

    @property
    def flops(self) -> float:
        return self.teacher.flops + self.student.flops

    def train(self, steps: int | None, flops: float | None) -> int:
        """For `steps`, or until `flops` are spent; the steps that it were. The rate falls to zero
        over either."""
        optimizer = torch.optim.AdamW(self.student.model.parameters(), lr=self.rate)
        rng, done = random.Random(self.seed), 0
        torch.manual_seed(self.seed)
        while (share := done / steps if steps else self.flops / (flops or 1)) < 1:
            places = rng.sample(range(len(self.prompts)), min(BATCH, len(self.prompts)))
            self.student.model.eval()
            said = self._choose_outputs(places, rng)
            self.student.model.train()
            loss = self._compute_loss([self.prompts[i] for i in places], said)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.student.model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = self.rate * (1 - share)
            optimizer.step()
            done += 1
        return done

    def _choose_outputs(self, places: Sequence[int], rng: random.Random) -> list[list[int]]:
        if self.objective == "gkd" and rng.random() < OWN_SHARE:
            return self.student.say(self.tokenizer, [self.prompts[i] for i in places], 1.0)
        return [self.outputs[i] for i in places]

    def _compute_loss(self, prompts: Sequence[str], outputs: Sequence[list[int]]) -> Tensor:
        """The mean over the outputs' tokens."""
        rows = [
            (self.tokenizer(prompt).input_ids, output)
            for prompt, output in zip(prompts, outputs, strict=True)
        ]
        width = max(len(prompt) + len(output) for prompt, output in rows)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask, learned = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, (prompt, output) in enumerate(rows):
            end = len(prompt) + len(output)
            ids[row, :end] = torch.tensor([*prompt, *output])
            mask[row, :end] = 1
            learned[row, len(prompt) - 1 : end - 1] = True  # the places that say the output
        logits = self.student.read(ids, mask, learned)
        if self.objective == "sequence_level":
            return losses.token_cross_entropy(logits, ids.roll(-1, 1)[learned]).mean()
        with torch.no_grad():
            wanted = self.teacher.read(ids, mask, learned)
        beta = BETA if self.objective == "gkd" else 0.0
        return losses.generalised_jsd(logits, wanted, beta).mean()


def load_questions(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def load_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def count_right(
    student: Counted, tokenizer: Any, form: PromptFormat, tests: Sequence[dict[str, Any]]
) -> int:
    prompts = [form.format_prompt(form.predict, test["question"]) for test in tests]
    said = student.say(tokenizer, prompts, 0.0)
    texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in said]
    pairs = zip(texts, tests, strict=True)
    return sum(
        split_joined_output(text)[1].lower() == test["label"].lower() for text, test in pairs
    )


def run(options: argparse.Namespace) -> list[Result]:
    base = Path(options.student)
    if not base.is_dir():
        base = get_checkpoint(options.student, options.models)
    form = load_prompt_format(options.teacher)
    tokenizer = AutoTokenizer.from_pretrained(options.teacher, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if AutoTokenizer.from_pretrained(base).get_vocab() != tokenizer.get_vocab():
        raise Invalid(f"{base}: its tokenizer is not {options.teacher}'s, so logits do not compare")
    tests = load_questions(options.test)
    questions = [line["question"] for line in load_questions(options.train)]
    prompts = [form.format_prompt(form.predict, question) for question in questions]
    teacher_model = load_model(options.teacher).eval()
    outputs = Counted(teacher_model).say(tokenizer, prompts, 0.0)
    shown = count_right(Counted(teacher_model), tokenizer, form, tests)
    print(f"teacher: {shown} of {len(tests)} right; {len(questions)} questions to train on")
    results = []
    for seed in options.seeds:
        budget = None
        for objective in OBJECTIVES:
            student = Counted(load_model(base))
            made = Distillation(
                Counted(teacher_model), student, tokenizer, prompts, outputs, objective, seed,
                options.rate,
            )  # fmt: skip
            started = time.monotonic()
            steps = made.train(None if budget else options.steps, budget)
            budget = budget or made.flops
            seconds, spent = time.monotonic() - started, made.flops
            student.model.eval()
            right = count_right(student, tokenizer, form, tests)
            result = Result(objective, seed, right, len(tests), steps, spent, seconds)
            print(result, flush=True)
            results.append(result)
    return results


def render(results: Sequence[Result]) -> str:
    lines = [
        format_row(["row", "seeds", "right of", "accuracy by seed, 95 % Wilson", "mean", "steps",
                    "TFLOP", "s"]),
        format_row(["---"] * 8),
    ]  # fmt: skip
    for objective in OBJECTIVES:
        own = [one for one in results if one.objective == objective]
        rows = [wilson_interval(one.right, one.n) for one in own]
        lines.append(
            format_row([
                objective,
                str(len(own)),
                str(own[0].n),
                "; ".join(f"{row.accuracy:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in rows),
                f"{statistics.fmean(row.accuracy for row in rows):.3f}",
                f"{statistics.fmean(one.steps for one in own):.0f}",
                f"{statistics.fmean(one.flops for one in own) / 1e12:.1f}",
                f"{statistics.fmean(one.seconds for one in own):.0f}",
            ])
        )  # fmt: skip
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("teacher", type=Path)
    parser.add_argument("student")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--models", type=Path, default=Path.home() / ".qcrd/models")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    try:
        results = run(options)
    except Invalid as error:
        print(f"error: {error.message}")
        return 2
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print(render(results))
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in results]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
