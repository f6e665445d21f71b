"""The judges of this process: created once, trained by version, kept in the store.

Version 0 is untrained, 1 pretrained, t + 2 updated in iteration t. Each version is written to the
store before it is answered, its description last; so a restarted service answers as before, and
a call that is repeated returns what the first one did.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load, save

from qcrd.errors import Conflict, NotFound
from qcrd.method.judge.health import has_collapsed
from qcrd.method.judge.model import Judge, LocalJudge
from qcrd.method.judge.training_pairs import TrainingPair
from qcrd.method.student.loading import load_encoder
from qcrd.records.judge import CreateJudgeRequest, JudgeVersion
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, read_object, read_record, write_record
from services.discriminator.schemas import Scores, WireContrast

PRETRAINED = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "judge.json"


class Judges:
    def __init__(
        self, store: Store, find: Callable[[str], Path], *, resident: int, device: str
    ) -> None:
        self._store = store
        self._find = find
        self._resident = resident
        self._device = device
        self._held: OrderedDict[str, Seat] = OrderedDict()
        self._lock = threading.Lock()

    def create(self, judge_id: str, wanted: CreateJudgeRequest) -> JudgeVersion:
        """Idempotent; `Conflict` when the id has another spec already."""
        key = keys.judge_spec_key(judge_id)
        with self._lock:
            if self._known(judge_id) not in (None, wanted):
                raise Conflict(f"judge {judge_id} was created with another spec", param="spec")
            seat = self._seat(judge_id, wanted)
            write_record(self._store, key, wanted)
        return seat.current

    def get(self, judge_id: str) -> Seat:
        with self._lock:
            if judge_id not in self._held and (known := self._known(judge_id)) is not None:
                self._seat(judge_id, known)
            if judge_id not in self._held:
                raise NotFound(f"there is no judge {judge_id}; create it first")
            self._held.move_to_end(judge_id)
            return self._held[judge_id]

    def held(self, judge_id: str) -> Seat:
        """One that is in memory, which this call changes nothing about."""
        with self._lock:
            if judge_id not in self._held:
                raise NotFound(f"judge {judge_id} is not in memory", code="not_resident")
            return self._held[judge_id]

    def _known(self, judge_id: str) -> CreateJudgeRequest | None:
        try:
            return read_record(self._store, keys.judge_spec_key(judge_id), CreateJudgeRequest)
        except NotFound:
            return None

    def _seat(self, judge_id: str, wanted: CreateJudgeRequest) -> Seat:
        if judge_id not in self._held:
            seat = Seat(self._store, judge_id, self._build(wanted))
            seat.restore_newest()
            self._held[judge_id] = seat
            while len(self._held) > self._resident:
                self._held.popitem(last=False)
        return self._held[judge_id]

    def _build(self, wanted: CreateJudgeRequest) -> LocalJudge:
        with torch.random.fork_rng():
            torch.manual_seed(wanted.seed)
            encoder, tokenizer = load_encoder(self._find(wanted.base))
            spec = wanted.spec
            judge = Judge(encoder, tokenizer, hidden=spec.hidden, max_tokens=spec.max_tokens)
        return LocalJudge(judge.to(self._device), spec, seed=wanted.seed)


class Seat:
    """One judge in memory, with the lock that makes its calls follow each other."""

    def __init__(self, store: Store, judge_id: str, local: LocalJudge) -> None:
        self._store = store
        self._id = judge_id
        self._local = local
        self._first = _weights(local)
        self.current = JudgeVersion(version=0)
        self._lock = threading.Lock()

    def pretrain(self, contrasts: Sequence[WireContrast]) -> JudgeVersion:
        given = _contrasts(contrasts)
        return self._advance(PRETRAINED, lambda: self._local.pretrain(given))

    def update(
        self, iteration: int, contrasts: Sequence[WireContrast], weight: float, *, keep: int = 0
    ) -> JudgeVersion:
        given = _contrasts(contrasts)
        return self._advance(
            iteration + 2, lambda: self._local.update(iteration, given, weight=weight), keep=keep
        )

    def score(self, pairs: Sequence[tuple[str, str]], version: int | None = None) -> Scores:
        """`Conflict` when there is no such `version`."""
        with self._lock:
            if version is not None:
                self._load(version)
            before = self._local.flops
            scores = self._local.score(pairs)
            spent = self._local.flops - before
            return Scores(scores=tuple(scores), version=self.current.version, flops=spent)

    def restore(self, version: int) -> JudgeVersion:
        with self._lock:
            return self._load(version)

    def restore_newest(self) -> None:
        if written := self._written():
            self._load(written[-1])

    def _advance(
        self, version: int, train: Callable[[], dict[str, float]], *, keep: int = 0
    ) -> JudgeVersion:
        """Train from version - 1 to `version`, unless the store has it already. Versions under
        `keep` go; version 0 is never stored, the seed makes it again."""
        with self._lock:
            if version in self._written():
                return self._load(version)
            if self.current.version != version - 1:
                self._load(version - 1)
            before = self._local.flops
            health = train()
            made = JudgeVersion(
                version=version,
                health=health,
                histograms=self._local.histograms,
                collapsed=has_collapsed(health),
                flops=self._local.flops - before,
            )
            self._save(made, keep)
            self.current = made
            return made

    def _save(self, made: JudgeVersion, keep: int) -> None:
        prefix = keys.judge_version_prefix(self._id, made.version)
        self._store.put(prefix + WEIGHTS, save(_weights(self._local)))
        write_record(self._store, prefix + DESCRIPTION, made)
        for old in [version for version in self._written() if version < keep]:
            # The description first: what lacks it is not there.
            for name in (DESCRIPTION, WEIGHTS):
                self._store.delete(keys.judge_version_prefix(self._id, old) + name)

    def _load(self, version: int) -> JudgeVersion:
        if version == self.current.version:
            return self.current
        if version == 0:
            self._local.model.load_state_dict(self._first)
            self.current = JudgeVersion(version=0)
            return self.current
        prefix = keys.judge_version_prefix(self._id, version)
        try:
            described = read_record(self._store, prefix + DESCRIPTION, JudgeVersion)
        except NotFound as error:
            raise Conflict(
                f"judge {self._id} has no version {version}; it has {[0, *self._written()]}",
                param="version",
            ) from error
        self._local.model.load_state_dict(load(read_object(self._store, prefix + WEIGHTS)))
        self.current = described
        return described

    def _written(self) -> list[int]:
        prefix = keys.judge_prefix(self._id)
        names = [key.removeprefix(prefix) for key in self._store.list(prefix)]
        return sorted(int(n.split("/")[0]) for n in names if n.endswith("/" + DESCRIPTION))


def _weights(local: LocalJudge) -> dict[str, torch.Tensor]:
    state = local.model.state_dict()
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


def _contrasts(given: Sequence[WireContrast]) -> list[TrainingPair]:
    return [TrainingPair(c.question, c.positives, c.negatives, c.sources) for c in given]
