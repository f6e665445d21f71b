"""The quality judge D: a score in (0, 1) for (question, rationale), trained online.

Encoder, masked max-pooling over tokens, two linear layers, sigmoid (QCRD section 3.3).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from qcrd.errors import Diverged
from qcrd.method.batching import group_by_length
from qcrd.method.compute import count_flops, has_bf16
from qcrd.method.judge.health import measure_health
from qcrd.method.judge.training_pairs import (
    QuestionRationale,
    TrainingPair,
    balance_negatives,
    count_real_negatives,
    split_holdout,
)
from qcrd.method.losses import JUDGE_LOSSES
from qcrd.method.random_stream import RandomStream
from qcrd.method.weight_decay import make_decay_groups
from qcrd.records.job import JudgeHistograms
from qcrd.records.specs.training_spec import JudgeSpec


class Judge(nn.Module):
    def __init__(
        self, encoder: Any, tokenizer: PreTrainedTokenizerBase, *, hidden: int, max_tokens: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.first = nn.Linear(encoder.config.hidden_size, hidden)
        self.second = nn.Linear(hidden, 1)
        self.flops = 0.0
        embedding_parameters = encoder.get_input_embeddings().weight.numel()
        self._parameters_per_token = (
            sum(p.numel() for p in self.parameters()) - embedding_parameters
        )

    @property
    def device(self) -> torch.device:
        return self.first.weight.device

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits [B] of the scores of token ids [B, T]; padding (mask 0) takes no part in the
        pooling."""
        # On a GPU in bf16, but for the head: a score near 1 needs its digits.
        is_fast = self.device.type == "cuda" and has_bf16(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_fast):
            states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = states.float().masked_fill(mask[..., None] == 0, -torch.inf).amax(1)
        self.flops += count_flops(self._parameters_per_token, ids.numel())
        logits: Tensor = self.second(torch.relu(self.first(pooled))).squeeze(1)
        return logits

    def compute_logits(self, pairs: Sequence[QuestionRationale]) -> Tensor:
        """Logits [len(pairs)], with gradients where they are enabled; batched by length. Losses are
        made of them: a score near 1 has lost the digits that its distance from 1 is in."""
        batch = self.tokenizer(
            [question for question, _ in pairs],
            [rationale for _, rationale in pairs],
            truncation="longest_first",
            max_length=self.max_tokens,
        )
        rows: list[list[int]] = batch["input_ids"]
        order, parts = [], []
        for group in group_by_length([len(row) for row in rows], max_tokens=64 * self.max_tokens):
            width = max(len(rows[i]) for i in group)
            pad = self.tokenizer.pad_token_id or 0
            ids = torch.tensor([rows[i] + [pad] * (width - len(rows[i])) for i in group])
            mask = torch.tensor([[1] * len(rows[i]) + [0] * (width - len(rows[i])) for i in group])
            parts.append(self(ids.to(self.device), mask.to(self.device)))
            order += group
        return torch.cat(parts)[torch.tensor(order).argsort().to(self.device)]

    @torch.no_grad()
    def predict_scores(self, pairs: Sequence[QuestionRationale]) -> list[float]:
        """Scores without gradients and without dropout. `Diverged` when one is no number."""
        if not pairs:
            return []
        self.eval()
        values: list[float] = torch.sigmoid(self.compute_logits(pairs)).tolist()
        if not all(map(math.isfinite, values)):
            raise _make_divergence_error("a score", math.nan)
        return values


def _make_divergence_error(quantity: str, value: float) -> Diverged:
    return Diverged(
        f"the quality judge has diverged: {quantity} is {value}; lower "
        "`discriminator.learning_rate`"
    )


def train_judge(
    judge: Judge,
    training_pairs: Sequence[TrainingPair],
    spec: JudgeSpec,
    *,
    steps: int,
    learning_rate: float,
    seed: int,
) -> Iterator[float]:
    """Yield the loss of each of `steps` optimizer steps over `training_pairs`, drawn in a seeded
    order. `Diverged` when the loss or what it leads to is no number.

    The optimizer starts afresh on every call: an update is then a function of (weights, pairs,
    seed), so a restarted service repeats it exactly from the weights alone.
    """
    loss_fn = JUDGE_LOSSES[spec.loss]
    groups = make_decay_groups(judge.named_parameters(), spec.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    rng = random.Random(seed)
    usable = [c for c in training_pairs if c.positives and c.negatives]
    if not usable:
        return
    # A judge is trained beside those of other jobs.
    dropout = RandomStream(seed, judge.device)
    for _ in range(steps):
        batch = rng.sample(usable, min(spec.batch_size, len(usable)))
        judge.train()
        with dropout.drawing():
            loss = loss_fn(*compute_padded_logits(judge, batch)) / len(batch)
        optimizer.zero_grad()
        loss.backward()
        gradient_norm = nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        for quantity, value in (("its loss", loss), ("its gradient's norm", gradient_norm)):
            if not math.isfinite(value.item()):
                raise _make_divergence_error(quantity, value.item())
        optimizer.step()
        yield loss.item()


def compute_padded_logits(
    judge: Judge, batch: Sequence[TrainingPair]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(positives, mask, negatives, mask), each [N, R] over the batch's training pairs."""
    pairs = [(c.question, r) for c in batch for r in (*c.positives, *c.negatives)]
    groups = iter(
        torch.split(judge.compute_logits(pairs), [n for c in batch for n in _count_sides(c)])
    )
    columns = [(next(groups), next(groups)) for _ in batch]
    pos, neg = zip(*columns, strict=True)
    return (*_pad_logits(pos), *_pad_logits(neg))


def _count_sides(pair: TrainingPair) -> tuple[int, int]:
    return len(pair.positives), len(pair.negatives)


def _pad_logits(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    logits = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=logits.device)
    mask = torch.arange(logits.shape[1], device=logits.device)[None] < lengths[:, None]
    return logits, mask


class JudgeBackend(Protocol):
    """The trainer's interface to the judge: in this process, or a service. `histograms` are those
    of its last training call; `oldest_version` is the oldest version that a resumed run needs."""

    flops: float
    oldest_version: int
    histograms: JudgeHistograms | None

    def pretrain(self, training_pairs: Sequence[TrainingPair]) -> dict[str, float]: ...
    def update(
        self, iteration: int, training_pairs: Sequence[TrainingPair], *, weight: float
    ) -> dict[str, float]: ...
    def score(self, pairs: Sequence[QuestionRationale]) -> list[float]: ...


class LocalJudge:
    """The judge of one job, trained and run in this process.

    The discriminator service puts the same object behind HTTP. `histograms` are those of the last
    training call, None before the first.
    """

    def __init__(self, model: Judge, spec: JudgeSpec, *, seed: int) -> None:
        self.model = model
        self.spec = spec
        self.seed = seed
        self.histograms: JudgeHistograms | None = None
        self.oldest_version = 0

    @property
    def flops(self) -> float:
        """Floating-point operations so far, training and scoring."""
        return self.model.flops

    @flops.setter
    def flops(self, value: float) -> None:
        self.model.flops = value

    def pretrain(self, training_pairs: Sequence[TrainingPair]) -> dict[str, float]:
        """The metrics say how many questions it could learn right from wrong from."""
        train, holdout = split_holdout(training_pairs)
        balanced_pairs = balance_negatives(train, seed=self.seed)
        metrics = self._train_and_evaluate(
            balanced_pairs, holdout, self.spec.pretrain_steps, self.spec.learning_rate, -1
        )
        return {**metrics, **count_real_negatives(train)} if self.spec.pretrain_steps else metrics

    def update(
        self, iteration: int, training_pairs: Sequence[TrainingPair], *, weight: float
    ) -> dict[str, float]:
        """One online round. `weight` is alpha3 of this iteration; it scales the step, because
        Adam's steps do not change with the scale of the loss."""
        train, holdout = split_holdout(training_pairs)
        learning_rate = self.spec.learning_rate * weight
        return self._train_and_evaluate(
            train, holdout, self.spec.update_steps, learning_rate, iteration
        )

    def score(self, pairs: Sequence[QuestionRationale]) -> list[float]:
        return self.model.predict_scores(pairs)

    def _train_and_evaluate(
        self,
        train: Sequence[TrainingPair],
        holdout: Sequence[TrainingPair],
        steps: int,
        learning_rate: float,
        iteration: int,
    ) -> dict[str, float]:
        seed = random.Random(f"{self.seed}/{iteration}").getrandbits(31)
        losses = list(
            train_judge(
                self.model, train, self.spec, steps=steps, learning_rate=learning_rate, seed=seed
            )
        )
        metrics, self.histograms = measure_health(self.model.predict_scores, holdout)
        return {**metrics, "loss": losses[-1]} if losses else metrics
