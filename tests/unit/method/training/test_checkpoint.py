"""Checkpoints in the store: blobs by content, damage found, the newest whole state taken."""

from __future__ import annotations

import json

import pytest
import torch

from qcrd.method.training.checkpoint import TrainerState
from qcrd.runtime.storage.store import MemoryStore, read_object
from services.trainer.checkpoints.store import CheckpointStore


def state(step: int) -> TrainerState:
    """One weight of an iteration that never changes, one of the step, the optimizer's moments."""
    return TrainerState(
        {
            "weights/000000": {"w": torch.zeros(4)},
            "live": {"w": torch.full((4,), float(step))},
            "moments": {"0.step": torch.tensor(float(step))},
        },
        {"step": step, "judge_version": step + 1},
        {"scores": {"a": 0.5}},
    )


def checkpoints(store: MemoryStore, run: str = "r") -> CheckpointStore:
    return CheckpointStore(store, "ftjob-1", run_digest=run, interval_seconds=0)


def saved(*numbers: int) -> MemoryStore:
    store = MemoryStore()
    kept = checkpoints(store)
    for step in numbers:
        kept.save("qcrd", state(step))
    return store


def named(store: MemoryStore, part: str) -> list[str]:
    return [key for key in store.list("") if f"/{part}/" in key]


def flip(store: MemoryStore, key: str) -> None:
    data = bytearray(read_object(store, key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


def blob(store: MemoryStore, step: int, name: str) -> str:
    key = next(k for k in named(store, "states") if k.endswith(f"{step:08d}.json"))
    sha = json.loads(read_object(store, key))["blobs"][name]
    return next(k for k in named(store, "blobs") if k.endswith(sha))


def test_the_newest_state_comes_back_as_it_was_saved() -> None:
    found, refused = checkpoints(saved(1, 2, 3)).load("qcrd")
    assert found is not None
    assert refused == []
    assert found.numbers == state(3).numbers
    assert found.iteration_data == state(3).iteration_data
    for name, part in state(3).tensors.items():
        assert {k: v.tolist() for k, v in found.tensors[name].items()} == {
            k: v.tolist() for k, v in part.items()
        }


def test_two_states_stay_and_share_what_is_equal() -> None:
    """Of the two: their own live and moments (4), the weights and the prepared part they share."""
    store = saved(1, 2, 3)
    assert [key[-13:] for key in named(store, "states")] == ["00000002.json", "00000003.json"]
    assert len(named(store, "blobs")) == 6


def test_a_save_names_the_oldest_judge_that_may_be_asked_for() -> None:
    kept = checkpoints(MemoryStore())
    assert [kept.save("qcrd", state(step)) for step in (1, 2, 5)] == [2, 2, 3]


@pytest.mark.parametrize("name", ["live", "moments"])
def test_a_flipped_byte_falls_back_to_the_state_before(name: str) -> None:
    store = saved(1, 2)
    flip(store, blob(store, 2, name))
    found, refused = checkpoints(store).load("qcrd")
    assert found is not None
    assert found.numbers["step"] == 1
    assert refused == [f"00000002.json: its {name} is not what was written"]


def test_a_damaged_manifest_and_a_missing_blob_fall_back() -> None:
    store = saved(1, 2)
    key = named(store, "states")[1]
    store.put(key, read_object(store, key).replace(b'"judge_version": 3', b'"judge_version": 9'))
    found, refused = checkpoints(store).load("qcrd")
    assert found is not None
    assert found.numbers["step"] == 1
    assert "its manifest is not what was written" in refused[0]
    store.delete(blob(store, 1, "live"))
    found, refused = checkpoints(store).load("qcrd")
    assert found is None
    assert refused[1] == "00000001.json: its live is missing"


def test_a_checkpoint_of_another_spec_is_refused() -> None:
    found, refused = checkpoints(saved(1), run="other").load("qcrd")
    assert found is None
    assert refused == ["00000001.json: it belongs to a run with another spec"]


def test_a_manifest_cut_short_is_refused() -> None:
    store = saved(1)
    key = named(store, "states")[0]
    store.put(key, read_object(store, key)[:40])
    found, refused = checkpoints(store).load("qcrd")
    assert found is None
    assert refused == ["00000001.json: its manifest cannot be read"]
