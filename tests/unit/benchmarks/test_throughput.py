"""Every contender of the throughput benchmark trains on the same tokens."""

from __future__ import annotations

import torch

from benchmarks.throughput import Work, time_ours, time_transformers
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from tests.unit.method.training.test_trainer import lessons, student


def make_work() -> Work:
    return Work(student("llama"), [lessons()[:4], lessons()[4:]])


def test_a_question_is_two_sequences_whose_prompts_are_not_learned() -> None:
    work = make_work()
    (label, n_label), (rationale, n_rationale) = list(work.make_sequences(lessons()[:1]))
    first = lessons()[0]
    decode = work.student.tokenizer.decode
    assert PREDICT_PREFIX.split(":")[0] in decode(label[:n_label])
    assert EXPLAIN_PREFIX.split(":")[0] in decode(rationale[:n_rationale])
    assert first.label in decode(label[n_label:])
    assert first.positives[0].text in decode(rationale[n_rationale:])
    assert work.count_tokens()[0] > len(label) + len(rationale)


def test_our_steps_and_those_of_transformers_are_timed_one_by_one_and_train() -> None:
    for run in (lambda work: time_ours(work, "dss"), time_transformers):
        work = make_work()
        before = [p.clone() for p in work.student.model.parameters()]
        seconds = run(work)
        assert len(seconds) >= 1
        assert all(one > 0 for one in seconds)
        after = list(work.student.model.parameters())
        assert not all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
