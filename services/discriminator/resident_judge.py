"""One judge in memory: trained by version, each version in the store before it is answered.

Version 0 is untrained, 1 pretrained, t + 2 updated in iteration t. A version's description is
written last; so a restarted service answers as before, and a call that is repeated returns what
the first one did.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from safetensors.torch import load, save

from qcrd.errors import Conflict, NotFound
from qcrd.method.judge.health import has_collapsed
from qcrd.method.judge.model import LocalJudge
from qcrd.method.judge.training_pairs import TrainingPair
from qcrd.records.judge import JudgeVersion
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, read_object, read_record, write_record
from services.discriminator.schemas import ScoreResponse, TrainingPairSchema

PRETRAINED_VERSION = 1
WEIGHTS_FILE, DESCRIPTION_FILE = "model.safetensors", "judge.json"


class ResidentJudge:
    """One judge in memory, with the lock that makes its calls follow each other."""

    def __init__(self, store: Store, judge_id: str, judge: LocalJudge) -> None:
        self._store = store
        self._id = judge_id
        self._judge = judge
        self._initial_weights = _copy_weights(judge)
        self.current = JudgeVersion(version=0)
        self._lock = threading.Lock()

    def pretrain(self, training_pairs: Sequence[TrainingPairSchema]) -> JudgeVersion:
        pairs = _to_training_pairs(training_pairs)
        return self._train_to_version(PRETRAINED_VERSION, lambda: self._judge.pretrain(pairs))

    def update(
        self,
        iteration: int,
        training_pairs: Sequence[TrainingPairSchema],
        weight: float,
        *,
        oldest_version: int = 0,
    ) -> JudgeVersion:
        pairs = _to_training_pairs(training_pairs)
        return self._train_to_version(
            iteration + 2,
            lambda: self._judge.update(iteration, pairs, weight=weight),
            oldest_version=oldest_version,
        )

    def score(self, pairs: Sequence[tuple[str, str]], version: int | None = None) -> ScoreResponse:
        """`Conflict` when there is no such `version`."""
        with self._lock:
            if version is not None:
                self._load(version)
            flops_before = self._judge.flops
            scores = self._judge.score(pairs)
            flops = self._judge.flops - flops_before
            return ScoreResponse(scores=tuple(scores), version=self.current.version, flops=flops)

    def restore(self, version: int) -> JudgeVersion:
        with self._lock:
            return self._load(version)

    def restore_newest(self) -> None:
        if versions := self._list_versions():
            self._load(versions[-1])

    def _train_to_version(
        self, version: int, train: Callable[[], dict[str, float]], *, oldest_version: int = 0
    ) -> JudgeVersion:
        """Train from version - 1 to `version`, unless the store has it already. Versions under
        `oldest_version` go; version 0 is never stored, the seed makes it again."""
        with self._lock:
            if version in self._list_versions():
                return self._load(version)
            if self.current.version != version - 1:
                self._load(version - 1)
            flops_before = self._judge.flops
            health = train()
            trained = JudgeVersion(
                version=version,
                health=health,
                histograms=self._judge.histograms,
                collapsed=has_collapsed(health),
                flops=self._judge.flops - flops_before,
            )
            self._save(trained, oldest_version)
            self.current = trained
            return trained

    def _save(self, trained: JudgeVersion, oldest_version: int) -> None:
        prefix = keys.judge_version_prefix(self._id, trained.version)
        self._store.put(prefix + WEIGHTS_FILE, save(_copy_weights(self._judge)))
        write_record(self._store, prefix + DESCRIPTION_FILE, trained)
        for old in [version for version in self._list_versions() if version < oldest_version]:
            # The description first: what lacks it is not there.
            for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
                self._store.delete(keys.judge_version_prefix(self._id, old) + name)

    def _load(self, version: int) -> JudgeVersion:
        if version == self.current.version:
            return self.current
        if version == 0:
            self._judge.model.load_state_dict(self._initial_weights)
            self.current = JudgeVersion(version=0)
            return self.current
        prefix = keys.judge_version_prefix(self._id, version)
        try:
            stored = read_record(self._store, prefix + DESCRIPTION_FILE, JudgeVersion)
        except NotFound as error:
            raise Conflict(
                f"judge {self._id} has no version {version}; it has {[0, *self._list_versions()]}",
                param="version",
            ) from error
        self._judge.model.load_state_dict(load(read_object(self._store, prefix + WEIGHTS_FILE)))
        self.current = stored
        return stored

    def _list_versions(self) -> list[int]:
        prefix = keys.judge_prefix(self._id)
        names = [key.removeprefix(prefix) for key in self._store.list(prefix)]
        return sorted(int(n.split("/")[0]) for n in names if n.endswith("/" + DESCRIPTION_FILE))


def _copy_weights(judge: LocalJudge) -> dict[str, torch.Tensor]:
    state = judge.model.state_dict()
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


def _to_training_pairs(training_pairs: Sequence[TrainingPairSchema]) -> list[TrainingPair]:
    return [TrainingPair(c.question, c.positives, c.negatives, c.sources) for c in training_pairs]
