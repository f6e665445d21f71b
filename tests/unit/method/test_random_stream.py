"""Trainings in one process do not take each other's random numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from qcrd.method.judge.model import Judge, train_judge
from qcrd.method.judge.training_pairs import TrainingPair
from qcrd.method.random_stream import RandomStream
from qcrd.records.specs.training_spec import JudgeSpec
from tests import tiny
from tests.things import THINGS, asked

CPU = torch.device("cpu")
STEPS = 5


def start_training(seed: int) -> Iterator[float]:
    """The losses of a judge whose encoder has dropout."""
    torch.manual_seed(seed)
    encoder = tiny.bert()
    encoder.config.hidden_dropout_prob = 0.5
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    judge = Judge(encoder, tiny.tokenizer(), hidden=8, max_tokens=32)
    pairs = [
        TrainingPair(asked(thing, 0), (reason,), ("a thing",))
        for thing, (_, reason) in THINGS.items()
    ]
    return train_judge(judge, pairs, JudgeSpec(), steps=STEPS, learning_rate=1e-2, seed=seed)


def test_judges_trained_in_turns_are_those_trained_alone() -> None:
    alone = [list(start_training(seed)) for seed in (0, 1)]
    assert alone[0] == list(start_training(0)), "it is no function of its seed"
    in_turns = list(zip(start_training(0), start_training(1), strict=True))
    assert [list(losses) for losses in zip(*in_turns, strict=True)] == alone


def test_a_stream_goes_on_where_it_was_and_leaves_nothing_behind() -> None:
    torch.manual_seed(7)
    expected = torch.rand(6)
    stream, after = RandomStream(7, CPU), torch.random.get_rng_state()
    drawn = []
    for _ in range(3):
        with stream.drawing():
            drawn.append(torch.rand(2))
        assert torch.equal(torch.random.get_rng_state(), after)
    assert torch.equal(torch.cat(drawn), expected)
