"""One judge in memory: trained by version, each version in the store before it is answered.

Version 0 is untrained, 1 pretrained, t + 2 updated in iteration t. A version's description is
written last; so a restarted service answers as before, and a call that is repeated returns what
the first one did.

Of two trainers of one job the one with the newer lease is obeyed: the other one's calls are
refused, and a version that it was training is not kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from safetensors.torch import load, save

from qcrd.errors import Conflict, LeaseLost, NotFound
from qcrd.method.judge.health import has_collapsed
from qcrd.method.judge.model import LocalJudge
from qcrd.method.judge.training_pairs import TrainingPair
from qcrd.records.judge import JudgeVersion
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, find_record, read_object, read_record, write_record
from services.discriminator.schemas import JudgeHolder, ScoreResponse, TrainingPairSchema

PRETRAINED_VERSION = 1
WEIGHTS_FILE, DESCRIPTION_FILE = "model.safetensors", "judge.json"


class ResidentJudge:
    """One judge in memory, with the lock that makes its calls follow each other.

    A call's `token` is its caller's lease; None for one that holds no job.
    """

    def __init__(self, store: Store, judge_id: str, judge: LocalJudge) -> None:
        self._store = store
        self._id = judge_id
        self._judge = judge
        self._initial_weights = _copy_weights(judge)
        self.current = JudgeVersion(version=0)
        self._holds_current = True
        """Whether the weights in memory are those of `current`: not while, or after it failed, a
        training call changes them."""
        self._lock = threading.Lock()
        holder = find_record(store, keys.judge_holder_key(judge_id), JudgeHolder)
        self._newest_token = holder.token if holder else 0
        self._token_lock = threading.Lock()
        """Not the judge's own: a new trainer is heard while the old one's call is at work."""

    def admit(self, token: int | None) -> None:
        """`LeaseLost` when a newer lease than `token` has asked for this judge."""
        with self._token_lock:
            if token is not None and token > self._newest_token:
                record = JudgeHolder(token=token)
                write_record(self._store, keys.judge_holder_key(self._id), record)
                self._newest_token = token
            self._check_token(token)

    def _check_token(self, token: int | None) -> None:
        if token is not None and token < self._newest_token:
            raise LeaseLost(
                f"judge {self._id} is asked for by lease {self._newest_token}, which is newer than "
                f"{token}"
            )

    def pretrain(
        self, training_pairs: Sequence[TrainingPairSchema], *, token: int | None = None
    ) -> JudgeVersion:
        pairs = _to_training_pairs(training_pairs)
        return self._train_to_version(
            PRETRAINED_VERSION, lambda: self._judge.pretrain(pairs), token=token
        )

    def update(
        self,
        iteration: int,
        training_pairs: Sequence[TrainingPairSchema],
        weight: float,
        *,
        oldest_version: int = 0,
        token: int | None = None,
    ) -> JudgeVersion:
        pairs = _to_training_pairs(training_pairs)
        return self._train_to_version(
            iteration + 2,
            lambda: self._judge.update(iteration, pairs, weight=weight),
            oldest_version=oldest_version,
            token=token,
        )

    def score(self, pairs: Sequence[tuple[str, str]], version: int | None = None) -> ScoreResponse:
        """`Conflict` when there is no such `version`."""
        with self._lock:
            self._load(self.current.version if version is None else version)
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
        self,
        version: int,
        train: Callable[[], dict[str, float]],
        *,
        oldest_version: int = 0,
        token: int | None,
    ) -> JudgeVersion:
        """Train from version - 1 to `version`, unless the store has it already. Versions under
        `oldest_version` go; version 0 is never stored, the seed makes it again."""
        with self._lock:
            if version in self._list_versions():
                return self._load(version)
            self._load(version - 1)
            flops_before = self._judge.flops
            self._holds_current = False
            health = train()
            trained = JudgeVersion(
                version=version,
                health=health,
                histograms=self._judge.histograms,
                collapsed=has_collapsed(health),
                flops=self._judge.flops - flops_before,
            )
            with self._token_lock:
                self._check_token(token)
                self._save(trained, oldest_version)
            self.current, self._holds_current = trained, True
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
        if version == self.current.version and self._holds_current:
            return self.current
        if version == 0:
            self._judge.model.load_state_dict(self._initial_weights)
            self.current, self._holds_current = JudgeVersion(version=0), True
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
        self.current, self._holds_current = stored, True
        return stored

    def _list_versions(self) -> list[int]:
        parsed = map(keys.parse_judge_version, self._store.list(keys.judge_prefix(self._id)))
        return sorted(version for version in parsed if version is not None)


def _copy_weights(judge: LocalJudge) -> dict[str, torch.Tensor]:
    state = judge.model.state_dict()
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


def _to_training_pairs(training_pairs: Sequence[TrainingPairSchema]) -> list[TrainingPair]:
    return [TrainingPair(c.question, c.positives, c.negatives, c.sources) for c in training_pairs]
