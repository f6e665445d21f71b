"""Which judges stay in memory: more jobs than places, and one judge that loads slowly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from qcrd.errors import NotFound, UnreadableRecord
from qcrd.records.judge import CreateJudgeRequest
from qcrd.records.specs.training_spec import JudgeSpec
from qcrd.runtime import keys
from qcrd.runtime.storage.store import MemoryStore, Store, read_object
from services.discriminator.registry import JudgeRegistry
from services.discriminator.resident_judge import WEIGHTS_FILE
from services.discriminator.schemas import TrainingPairSchema
from tests import tiny

SPEC = JudgeSpec(pretrain_steps=2, update_steps=2, batch_size=4, hidden=8, max_tokens=32)
REQUEST = CreateJudgeRequest(base="tiny-bert", spec=SPEC, seed=3)
PAIRS = [TrainingPairSchema(question="trout ?", positives=("it swims",), negatives=("a thing",))]
WAIT_SECONDS = 60


class SlowStore(MemoryStore):
    """Keeps a write of weights until `go_on`, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.weights_written: list[str] = []
        self.is_writing, self.go_on = threading.Event(), threading.Event()

    def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
        if key.endswith(WEIGHTS_FILE):
            self.weights_written.append(key)
            self.is_writing.set()
            assert self.go_on.wait(WAIT_SECONDS)
        super().put(key, data, length=length)


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    tiny.save_base(tmp_path / "tiny-bert")
    return tmp_path / "tiny-bert"


def make_registry(
    store: Store, find_base: Callable[[str], Path], *, max_resident: int = 1
) -> JudgeRegistry:
    return JudgeRegistry(store, find_base, max_resident=max_resident, device="cpu")


def test_a_request_with_defaults_is_that_of_an_earlier_release() -> None:
    """Which compares it, field by field, with the one that it stored."""
    written = REQUEST.model_dump(mode="json")
    assert "weight_decay" not in written["spec"]
    assert CreateJudgeRequest.model_validate(written) == REQUEST
    other = REQUEST.model_copy(update={"spec": SPEC.model_copy(update={"weight_decay": 0.0})})
    assert CreateJudgeRequest.model_validate_json(other.model_dump_json()) == other != REQUEST


def test_a_judge_that_trains_is_trained_once_however_many_others_come(base_dir: Path) -> None:
    """One place. While the first judge trains, three others are made and its call is repeated."""
    store = SlowStore()
    judges = make_registry(store, lambda name: base_dir)
    judges.create_judge("first", REQUEST)

    def pretrain() -> int:
        with judges.use_judge("first") as judge:
            return judge.pretrain(PAIRS).version

    with ThreadPoolExecutor(2) as pool:
        trained = pool.submit(pretrain)
        assert store.is_writing.wait(WAIT_SECONDS)
        for name in ("second", "third", "fourth"):
            judges.create_judge(name, REQUEST)
        repeated = pool.submit(pretrain)
        store.go_on.set()
        assert (trained.result(), repeated.result()) == (1, 1)
    assert len(store.weights_written) == 1


def test_a_judge_in_use_keeps_its_place_and_an_idle_one_gives_it_up(base_dir: Path) -> None:
    judges = make_registry(MemoryStore(), lambda name: base_dir)
    judges.create_judge("first", REQUEST)
    with judges.use_judge("first") as held:
        judges.create_judge("second", REQUEST)
        with judges.use_judge("first") as again:
            assert again is held
        with pytest.raises(NotFound, match="not in memory"):
            judges.get_current("second", resident=True)
    judges.create_judge("second", REQUEST)
    with pytest.raises(NotFound, match="not in memory"):
        judges.get_current("first", resident=True)
    assert judges.get_current("second", resident=True).version == 0


def test_a_judge_that_loads_slowly_keeps_no_other_waiting(base_dir: Path) -> None:
    is_loading, go_on = threading.Event(), threading.Event()

    def find_base(name: str) -> Path:
        if name == "slow":
            is_loading.set()
            assert go_on.wait(WAIT_SECONDS)
        return base_dir

    judges = make_registry(MemoryStore(), find_base, max_resident=2)
    judges.create_judge("quick", REQUEST)
    with ThreadPoolExecutor(2) as pool:
        slow = REQUEST.model_copy(update={"base": "slow"})
        loaded = pool.submit(judges.create_judge, "slow", slow)
        assert is_loading.wait(WAIT_SECONDS)
        try:
            asked = pool.submit(judges.get_current, "quick")
            assert asked.result(WAIT_SECONDS).version == 0
        finally:
            go_on.set()
        assert loaded.result().version == 0


def test_a_judge_that_cannot_be_loaded_leaves_no_place_behind(base_dir: Path) -> None:
    judges = make_registry(MemoryStore(), lambda name: base_dir)
    for _ in range(2):
        with pytest.raises(NotFound, match="create it first"), judges.use_judge("none"):
            pass
    assert judges.create_judge("none", REQUEST).version == 0


def test_a_judge_of_a_later_release_is_not_made_anew_over_it(tmp_path: Path) -> None:
    store, judge_id = MemoryStore(), "ftjob-" + "a" * 24
    key = keys.judge_spec_key(judge_id)
    store.put(key, b'{"base": 7}')
    registry = JudgeRegistry(store, lambda name: tmp_path, max_resident=1, device="cpu")
    with pytest.raises(UnreadableRecord):
        registry.create_judge(judge_id, REQUEST, token=1)
    assert read_object(store, key) == b'{"base": 7}'
