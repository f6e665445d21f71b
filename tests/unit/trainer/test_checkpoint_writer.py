"""Checkpoints are written beside the training: copied at once, rarer where they cost much, and
what goes wrong is raised."""

from __future__ import annotations

import threading

import pytest
import torch

from qcrd.errors import Transient
from qcrd.method.training.checkpoint import OPTIMIZER_MOMENTS, TrainerState
from qcrd.runtime import keys
from qcrd.runtime.storage.store import MemoryStore
from services.trainer.checkpoints.store import CheckpointStore
from services.trainer.checkpoints.writer import CheckpointWriter
from services.trainer.follower import FollowerStore

JOB = "ftjob-000000000000000000000001"


class SlowStore(MemoryStore):
    """Waits with each write for `go`; refuses where `refuses`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.refuses = False

    def put(self, key: str, data: object, *, length: int = -1) -> None:
        assert self.go.wait(60)
        if self.refuses:
            raise Transient("the store is away")
        super().put(key, data, length=length)  # type: ignore[arg-type]


def make_writer(store: MemoryStore) -> tuple[CheckpointStore, CheckpointWriter]:
    checkpoints = CheckpointStore(store, JOB, run_digest="run", interval_seconds=0)
    return checkpoints, CheckpointWriter(checkpoints, "qcrd", lambda _: None)


def state(moments: torch.Tensor) -> TrainerState:
    return TrainerState(
        {OPTIMIZER_MOMENTS: {"0.exp_avg": moments}}, {"step": 1, "judge_version": 0}
    )


def test_a_state_is_what_it_was_when_it_was_saved() -> None:
    store = SlowStore()
    checkpoints, writer = make_writer(store)
    moments = torch.ones(3)
    writer.save(state(moments))
    assert not writer.is_due()  # it is still being written
    moments += 1
    store.go.set()
    writer.wait()
    loaded, rejected = checkpoints.load("qcrd")
    assert loaded is not None, rejected
    assert torch.equal(loaded.tensors[OPTIMIZER_MOMENTS]["0.exp_avg"], torch.ones(3))


def test_what_goes_wrong_is_raised_once_where_the_training_sees_it() -> None:
    store = SlowStore()
    store.refuses = True
    store.go.set()
    _, writer = make_writer(store)
    writer.save(state(torch.ones(3)))
    with pytest.raises(Transient, match="the store is away"):
        writer.save(state(torch.ones(3)))
    writer.wait()


def test_a_follower_writes_its_blobs_and_nothing_else() -> None:
    store = MemoryStore()
    follower = FollowerStore(store, JOB)
    prefix = keys.checkpoint_prefix(JOB)
    for key in (f"{prefix}qcrd/blobs/abc", f"{prefix}qcrd/states/1.json", "models/m/model.json"):
        follower.put(key, b"{}")
    follower.delete(f"{prefix}qcrd/blobs/abc")
    assert store.list("") == [f"{prefix}qcrd/blobs/abc"]
