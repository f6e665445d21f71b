"""The judges of this process: created once, and read back from the store when they are asked for.

A few stay in memory. One that a call uses is never given up, however many others are asked for: a
second copy of it would be trained beside the first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from qcrd.errors import Conflict, NotFound
from qcrd.method.judge.model import Judge, LocalJudge
from qcrd.method.random_stream import RandomStream
from qcrd.method.student.loading import load_encoder
from qcrd.records.judge import CreateJudgeRequest, JudgeVersion
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, find_record, write_record
from services.discriminator.resident_judge import ResidentJudge


@dataclass
class _Place:
    """A judge's place in memory, empty until it is loaded. `users` are the calls that hold it."""

    judge: ResidentJudge | None = None
    users: int = 0
    loading: threading.Lock = field(default_factory=threading.Lock)


class JudgeRegistry:
    """Keeps `max_resident` judges in memory, and more only while calls use all of them."""

    def __init__(
        self, store: Store, find_base: Callable[[str], Path], *, max_resident: int, device: str
    ) -> None:
        self._store = store
        self._find_base = find_base
        self._max_resident = max_resident
        self._device = device
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._lock = threading.Lock()
        """Of the places, never held while a judge is read or built: that takes seconds."""

    def create_judge(
        self, judge_id: str, request: CreateJudgeRequest, *, token: int | None = None
    ) -> JudgeVersion:
        """Idempotent; `Conflict` when the id has another spec already, `LeaseLost` for an old
        `token`."""
        with self._hold_place(judge_id) as place, place.loading:
            stored = self._read_request(judge_id)
            if stored not in (None, request):
                raise Conflict(f"judge {judge_id} was created with another spec", param="spec")
            judge = self._get_or_load(judge_id, place, request)
            if stored is None:
                write_record(self._store, keys.judge_spec_key(judge_id), request)
        judge.admit(token)
        return judge.current

    @contextmanager
    def use_judge(self, judge_id: str, *, token: int | None = None) -> Iterator[ResidentJudge]:
        """The judge, which stays in memory until the block ends. `NotFound`; `LeaseLost` when a
        newer lease than the caller's `token` has asked for it."""
        with self._hold_place(judge_id) as place:
            with place.loading:
                judge = self._get_or_load(judge_id, place, None)
            judge.admit(token)
            yield judge

    def get_current(self, judge_id: str, *, resident: bool = False) -> JudgeVersion:
        """With `resident`, `NotFound` for a judge that is not in memory: the call changes nothing
        about which ones are."""
        if not resident:
            with self.use_judge(judge_id) as judge:
                return judge.current
        with self._lock:
            place = self._places.get(judge_id)
        if place is None or place.judge is None:
            raise NotFound(f"judge {judge_id} is not in memory", code="not_resident")
        return place.judge.current

    @contextmanager
    def _hold_place(self, judge_id: str) -> Iterator[_Place]:
        with self._lock:
            place = self._places.setdefault(judge_id, _Place())
            place.users += 1
            self._places.move_to_end(judge_id)
            self._give_up_idle_judges()  # before the new one is read, so that both fit
        try:
            yield place
        finally:
            with self._lock:
                place.users -= 1
                if place.judge is None and not place.users:
                    del self._places[judge_id]
                self._give_up_idle_judges()

    def _give_up_idle_judges(self) -> None:
        """The least recently used ones beyond `max_resident` that no call holds."""
        idle = [judge_id for judge_id, place in self._places.items() if not place.users]
        for judge_id in idle[: max(0, len(self._places) - self._max_resident)]:
            del self._places[judge_id]

    def _read_request(self, judge_id: str) -> CreateJudgeRequest | None:
        return find_record(self._store, keys.judge_spec_key(judge_id), CreateJudgeRequest)

    def _get_or_load(
        self, judge_id: str, place: _Place, request: CreateJudgeRequest | None
    ) -> ResidentJudge:
        """The place's judge; its caller holds `place.loading`. `NotFound` without any request."""
        if place.judge is None:
            request = request or self._read_request(judge_id)
            if request is None:
                raise NotFound(f"there is no judge {judge_id}; create it first")
            judge = ResidentJudge(self._store, judge_id, self._build_judge(request))
            judge.restore_newest()
            place.judge = judge
        return place.judge

    def _build_judge(self, request: CreateJudgeRequest) -> LocalJudge:
        base_dir = self._find_base(request.base)  # may be downloaded first
        with RandomStream(request.seed, torch.device("cpu")).drawing():
            encoder, tokenizer = load_encoder(base_dir)
            spec = request.spec
            judge = Judge(encoder, tokenizer, hidden=spec.hidden, max_tokens=spec.max_tokens)
        return LocalJudge(judge.to(self._device), spec, seed=request.seed)
