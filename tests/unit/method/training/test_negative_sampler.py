"""Where negatives come from: beside the training or in it, by lag, fixed or both."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qcrd.errors import Interrupted, Invalid, Transient
from qcrd.method.student.base import Student
from qcrd.method.student.loading import load_matching_weights, load_student
from qcrd.method.training.iteration_data import select_examples
from qcrd.method.training.negatives.sampler import (
    InlineNegativeSampler,
    NegativeSampleRequest,
    NegativeSamplingParams,
    ProcessNegativeSampler,
)
from qcrd.method.training.progress import PhaseStarted, StepFinished
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.weight_history import copy_trainable_weights
from qcrd.records.rationales import RationaleSource
from qcrd.records.specs.training_spec import (
    Hyperparameters,
    NegativeSource,
    NegativeSpec,
    StudentSpec,
)
from tests.unit.method.training.test_trainer import lessons, spec, student, validate


def order(model: Student, **changes: object) -> NegativeSampleRequest:
    wanted: dict[str, object] = {
        "questions": (("a", "what kind of thing is a trout ?"), ("b", "what is an apple ?")),
        "n": 2,
        "temperature": 1.5,
        "top_p": 1.0,
        "max_new_tokens": 6,
        "seed": 3,
        "tag": "s1",
        "source": RationaleSource.STUDENT,
    }
    return copy_trainable_weights(model), NegativeSamplingParams(**{**wanted, **changes})  # type: ignore[arg-type]


@pytest.fixture
def beside() -> Iterator[ProcessNegativeSampler]:
    past = ProcessNegativeSampler(student(), "cpu")
    yield past
    past.close()


def test_a_process_samples_what_this_one_would(beside: ProcessNegativeSampler) -> None:
    """Also when it was asked for something else before."""
    here, other = InlineNegativeSampler(student()), student(seed=1)
    orders = [order(other), order(student(), source=RationaleSource.FIXED, tag="f1")]
    beside.prefetch([order(other, seed=9)])
    found = beside.sample(orders)
    assert found == here.sample(orders)
    assert [r.source for r in found["a"]] == ["student"] * 2 + ["fixed"] * 2
    assert len({r.id for said in found.values() for r in said}) == 8
    assert beside.flops > here.flops * 0.99
    assert found != here.sample([order(other, seed=9)])
    # And when it dies, that is a reason to try again.
    assert beside._process.pid is not None
    os.kill(beside._process.pid, signal.SIGKILL)
    with pytest.raises(Transient, match=r"status -9; QCRD_SAMPLER=inline"):
        beside.sample([order(student())])


@pytest.mark.parametrize("kind", [InlineNegativeSampler, ProcessNegativeSampler])
def test_sampling_stops_when_the_work_is_not_wanted(kind: type) -> None:
    def stop() -> None:
        raise Interrupted("told to stop")

    past = (
        InlineNegativeSampler(student(), stop)
        if kind is InlineNegativeSampler
        else ProcessNegativeSampler(student(), "cpu", stop)
    )
    with pytest.raises(Interrupted):
        past.sample([order(student(), max_new_tokens=64, n=16, questions=(("a", "what ?"),) * 64)])
    past.close()


def trained(past: str, sources: tuple[NegativeSource, ...]) -> Trainer:
    model = student()
    sampler = (
        ProcessNegativeSampler(model, "cpu") if past == "process" else InlineNegativeSampler(model)
    )
    negatives = NegativeSpec(source=sources, lag=1, temperature=1.5)
    given = spec().model_copy(update={"negatives": negatives})
    made = make_schedule("dss+positives+negatives", given, n_examples=len(lessons()), seed=4)
    trainer = Trainer(model, lessons(), made, validate, negative_sampler=sampler)
    for _ in trainer.run():
        pass
    sampler.close()
    return trainer


def test_training_ends_with_the_same_weights_wherever_negatives_are_sampled() -> None:
    sources = (NegativeSource.STUDENT_LAG, NegativeSource.FIXED)
    here, beside = trained("inline", sources), trained("process", sources)
    assert here.flops == beside.flops
    for name, weight in copy_trainable_weights(here.student).items():
        assert torch.equal(weight, copy_trainable_weights(beside.student)[name]), name


def test_each_source_gives_its_own_samples() -> None:
    """In the second iteration the lagged student has moved on, the fixed one has not."""
    both = spec().model_copy(
        update={
            "negatives": NegativeSpec(
                source=(NegativeSource.STUDENT_LAG, NegativeSource.FIXED), lag=1, n=2
            )
        }
    )
    made = make_schedule("dss+positives+negatives", both, n_examples=len(lessons()), seed=4)
    trainer = Trainer(student(), lessons(), made, validate)
    asked = []
    for record in trainer.run():
        if isinstance(record, PhaseStarted):
            used = select_examples(trainer.schedule, trainer.examples, trainer.first_step)
            asked.append(trainer.negative_supply.make_requests(trainer.iteration, used))
        if isinstance(record, StepFinished) and trainer.iteration_data is not None:
            sampled = [r for own in trainer.iteration_data.samples.values() for r in own]
            assert {r.source for r in sampled} == {RationaleSource.STUDENT, RationaleSource.FIXED}
    (lagged, fixed) = asked[2]
    assert any(not torch.equal(lagged[0][name], weight) for name, weight in fixed[0].items())
    untrained = copy_trainable_weights(student())
    assert all(torch.equal(untrained[name], weight) for name, weight in fixed[0].items())


def test_the_fixed_source_can_be_a_given_checkpoint(tmp_path: Path) -> None:
    given, hyper = student(seed=7), Hyperparameters()
    given.model.save_pretrained(tmp_path / "m")
    given.tokenizer.save_pretrained(tmp_path / "m")
    model = student(seed=0)
    found = load_matching_weights(model, tmp_path / "m")
    assert found.keys() == copy_trainable_weights(model).keys()
    assert all(torch.equal(found[name], w) for name, w in copy_trainable_weights(given).items())
    lora = load_student(tmp_path / "m", StudentSpec.model_validate({"lora": {}}), hyper, seed=0)
    with pytest.raises(Invalid, match=r"`negatives.checkpoint`: 'm' has no 'encoder"):
        load_matching_weights(lora, tmp_path / "m")
