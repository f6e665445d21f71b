"""What a student says and what it learns of it: nothing of its base's habits, no end that was
never said, no label that was cut.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qcrd.method.student import generation
from qcrd.method.student.base import Student
from qcrd.method.student.causal import CausalStudent
from qcrd.method.student.generation import TOKEN_IDS
from qcrd.method.student.loading import load_student
from qcrd.method.student.seq2seq import Seq2SeqStudent
from qcrd.method.student.targets import Target, joined_target
from qcrd.method.training.objectives import OBJECTIVES
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.step_loss import StepModule
from qcrd.method.training.trainer import Trainer
from qcrd.records.specs.training_spec import Hyperparameters, LossSpec, StudentSpec
from tests import tiny
from tests.families import sharpen
from tests.unit.method.student.test_families import bart
from tests.unit.method.training.test_trainer import lessons, spec, student, validate

EOS = 1
PROMPTS = [f"explain: {lesson.text}" for lesson in lessons()]
LIMITS = {"max_question_tokens": 32, "max_target_tokens": 16}


def make(kind: str, *, talks: bool = False) -> Student:
    """A student that prefers some words clearly, so that a penalty changes its answers; one that
    `talks` prefers none to the end."""
    torch.manual_seed(0)
    model = sharpen({"t5": tiny.t5, "llama": tiny.llama, "bart": bart}[kind]())
    if talks:
        with torch.no_grad():
            model.get_output_embeddings().weight[EOS] = 0
    made = CausalStudent if kind == "llama" else Seq2SeqStudent
    return made(model, tiny.tokenizer(), **LIMITS)


@torch.no_grad()
def next_logits(student: Student, prompt: str, said: Sequence[int]) -> Tensor:
    """Logits [len(said) + 1, V] of each token of `said` and of the one behind it, by one call of
    the model without padding and without a cache."""
    asked = student.tokenize_prompts([prompt])[0]
    if isinstance(student, CausalStudent):
        ids = torch.tensor([[*asked, *said]])
        logits = student.model(input_ids=ids, use_cache=False).logits[0, len(asked) - 1 :]
    else:
        start = student.model.generation_config.decoder_start_token_id
        logits = student.model(
            input_ids=torch.tensor([asked]),
            decoder_input_ids=torch.tensor([[start, *said]]),
            use_cache=False,
        ).logits[0]
    return torch.as_tensor(logits).float()


def greedy(student: Student, prompt: str, limit: int) -> list[int]:
    said: list[int] = []
    while len(said) < limit and EOS not in said:
        said.append(int(next_logits(student, prompt, said)[-1].argmax()))
    return said


def token_losses(student: Student, prompt: str, said: Sequence[int]) -> list[float]:
    logits = next_logits(student, prompt, said)[:-1]
    return list(F.cross_entropy(logits, torch.tensor(said), reduction="none").tolist())


# --- nothing of the base's generation config (A6) -------------------------------------------------

SHIPPED: dict[str, dict[str, Any]] = {
    "beams and trigrams, as BART": {
        "num_beams": 4, "no_repeat_ngram_size": 3, "early_stopping": True, "length_penalty": 2.0,
        "forced_bos_token_id": 35, "forced_eos_token_id": EOS, "min_length": 6,
    },
    "a penalty and sampling, as Qwen2.5": {
        "repetition_penalty": 1.6, "do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.8,
    },
    "tokens that are never or always said": {
        "suppress_tokens": list(range(3, 20)), "begin_suppress_tokens": list(range(20, 30)),
        "bad_words_ids": [[30], [31]], "max_length": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("shipped", SHIPPED)
@pytest.mark.parametrize("kind", ["t5", "llama", "bart"])
def test_greedy_answers_are_those_of_a_greedy_loop_whatever_the_base_ships(
    kind: str, shipped: str
) -> None:
    made = make(kind, talks=True)
    plain = [greedy(made, prompt, 8) for prompt in PROMPTS]
    assert min(map(len, plain)) > 1
    for name, value in SHIPPED[shipped].items():
        setattr(made.model.generation_config, name, value)
    ids, mask = made._pad_prompts(made.tokenize_prompts(PROMPTS))
    torch.manual_seed(0)
    swayed = made.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8)
    start = made._completion_start(ids)
    rows = generation.trim(swayed[:, start:], made.model.generation_config)
    assert [row for row, _ in rows] != plain
    generation.reset_generation_config(made.model)
    expected = made.tokenizer.batch_decode(plain, skip_special_tokens=True)
    assert made.generate(PROMPTS, max_new_tokens=8) == [text.strip() for text in expected]


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_loaded_student_is_published_with_token_ids_alone(kind: str, tmp_path: Path) -> None:
    base = tiny.save_base(tmp_path / "base", kind)
    config_file = base / "generation_config.json"
    own = json.loads(config_file.read_text())
    habits = {name: value for habits in SHIPPED.values() for name, value in habits.items()}
    config_file.write_text(json.dumps({**own, **habits}))
    loaded = load_student(base, StudentSpec(), Hyperparameters(), seed=0)
    loaded.model.save_pretrained(tmp_path / "published")
    published = json.loads((tmp_path / "published" / "generation_config.json").read_text())
    assert set(published) - {"_from_model_config", "transformers_version"} <= set(TOKEN_IDS)
    assert published["eos_token_id"] == EOS
    assert published.get("decoder_start_token_id") == own.get("decoder_start_token_id")


@pytest.mark.parametrize(("shipped", "ends"), [(None, EOS), (7, [7, EOS]), ([7, EOS], [7, EOS])])
@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_what_a_student_learns_to_end_with_ends_what_it_says(
    kind: str, shipped: int | list[int] | None, ends: int | list[int]
) -> None:
    """Bases without an end in their generation config, or with another than their tokenizer's."""
    torch.manual_seed(0)
    model: Any = {"t5": tiny.t5, "llama": tiny.llama}[kind]()
    model.generation_config.eos_token_id = shipped
    made = (CausalStudent if kind == "llama" else Seq2SeqStudent)(model, tiny.tokenizer(), **LIMITS)
    assert made.model.generation_config.eos_token_id == ends
    samples = made.sample(PROMPTS * 8, max_new_tokens=6, temperature=1.5)
    assert {sample.is_cut for sample in samples} == {False, True}


# --- no end that was never said (A7) --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_what_reached_its_limit_is_cut_and_learned_without_an_end(kind: str) -> None:
    made = make(kind)
    samples = made.sample(PROMPTS * 8, max_new_tokens=6, temperature=1.5)
    assert {sample.is_cut for sample in samples} == {False, True}
    for prompt, sample in zip(PROMPTS * 8, samples, strict=True):
        if not sample.text:
            continue
        ids = made.tokenize_target(Target(sample.text, is_cut=sample.is_cut))
        assert (ids[-1] == EOS) is not sample.is_cut
        losses = token_losses(made, prompt, made.tokenize_target(Target(sample.text)))
        total, count = made.cross_entropy(
            [prompt], [0], [Target(sample.text, is_cut=sample.is_cut)]
        )
        kept = losses[:-1] if sample.is_cut else losses
        assert int(count) == len(kept)
        assert total.item() == pytest.approx(sum(kept), rel=1e-4)


def test_a_text_too_long_for_its_limit_is_learned_without_an_end() -> None:
    made = make("t5")
    assert EOS not in made.tokenize_target(Target("it swims in water " * 10))
    assert made.tokenize_target(Target("it swims"))[-1] == EOS


def test_the_negatives_of_a_run_know_that_they_were_cut() -> None:
    short = spec(max_rationale_tokens=2)
    schedule = make_schedule("dss+positives+negatives", short, n_examples=8, seed=0)
    trainer = Trainer(make("t5"), lessons(), schedule, validate)
    next(record for record in trainer.run() if trainer.iteration_data)
    assert trainer.iteration_data is not None
    samples = [one for own in trainer.iteration_data.samples.values() for one in own]
    assert any(sample.is_cut for sample in samples)
    assert all(sample.entropy is not None and sample.entropy > 0 for sample in samples)


def test_the_loss_of_a_cut_negative_is_that_of_its_text_alone() -> None:
    """Eq. 7 with δ = 40: the term is -β (1 - s) min(CE - 40, 0), CE the mean without an end."""
    made, item = student(), lessons()[0]
    item = replace(
        item, negatives=tuple(r.model_copy(update={"is_cut": True}) for r in item.negatives)
    )
    step = StepModule(made, OBJECTIVES["qcrd"], LossSpec(delta=40.0))
    scores = {item.positives[0].id: 0.9, item.positives[1].id: 0.9, item.negatives[0].id: 0.2}
    found = step([item], scores, 0).losses["negative"]
    ids = made.tokenize_target(Target(item.negatives[0].text))
    losses = token_losses(made, f"explain: {item.text}", ids)[:-1]
    expected = 0.8 * min(sum(losses) / len(losses) - 40, 0)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_entropy_is_that_of_the_distributions_at_temperature_1(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever temperature and nucleus the tokens were drawn with."""
    made, drawn = student(kind), []
    generate = made.model.generate

    def watch(input_ids: Tensor, **rest: Any) -> Any:
        output = generate(input_ids=input_ids, **rest)
        completions = output[:, 1 if kind == "t5" else input_ids.shape[1] :]
        drawn.extend(row for row, _ in generation.trim(completions, made.model.generation_config))
        return output

    monkeypatch.setattr(made.model, "generate", watch)
    # In this order, which is that of their lengths, they are asked in one batch.
    prompts = sorted(PROMPTS * 4, key=len)
    samples = made.sample(prompts, max_new_tokens=6, temperature=1.5, top_p=0.9, seed=3)
    assert len({len(row) for row in drawn}) > 1
    for prompt, said, sample in zip(prompts, drawn, samples, strict=True):
        log_p = next_logits(made, prompt, said)[:-1].log_softmax(-1)
        own = -(log_p.exp() * log_p).sum(-1)
        assert sample.entropy == pytest.approx(float(own.mean()), rel=1e-3)
    assert made.sample(PROMPTS[:1], max_new_tokens=6, temperature=0)[0].entropy is None


# --- the limit cuts rationales alone (A8) ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5", "llama", "bart"])
@pytest.mark.parametrize("words", [1, 12, 100])
def test_a_joined_target_keeps_its_whole_label_and_its_end(kind: str, words: int) -> None:
    made = make(kind)
    made.max_answer_tokens, made.max_output_tokens = 4, 20
    ids = made.tokenize_target(joined_target("water " * words, "animal"))
    label = made._tokenize_text("answer: animal")
    assert ids[-len(label) - 1 :] == [*label, EOS]
    assert len(ids) <= made.max_output_tokens
    water = made._tokenize_text("water")
    assert ids.count(water[-1]) == min(words, made.max_target_tokens - 1)


@pytest.mark.parametrize("kind", ["t5", "llama", "bart"])
@pytest.mark.parametrize("text", ["", "it swims in water", "it swims in water " * 10])
def test_an_answer_s_cross_entropy_is_given_the_text_before_it(kind: str, text: str) -> None:
    made = make(kind)
    targets = [joined_target(text, "animal"), Target("so it grows", answer="fruit")]
    found = made.answer_cross_entropy(PROMPTS[:2], targets)
    for prompt, target, ce in zip(PROMPTS, targets, found.tolist(), strict=False):
        losses = token_losses(made, prompt, made.tokenize_target(target))
        own = losses[-len(made._tokenize_text(target.answer)) - 1 :]
        assert ce == pytest.approx(sum(own) / len(own), rel=1e-3)
