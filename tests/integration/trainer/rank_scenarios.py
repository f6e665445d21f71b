"""What tests have ranks do: `python -m … SHARDS OUT SCENARIO…` under torchrun, or here by one.

A scenario is NAME:ARGUMENT…; the main rank writes the results to OUT. SHARDS of `copies`: whole
students on a mesh, which only GPUs have otherwise.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.device_mesh import DeviceMesh

from qcrd.errors import Invalid, NotFound
from qcrd.method.distributed import sharding
from qcrd.method.distributed.process_ranks import ProcessRanks, is_main_process
from qcrd.method.distributed.ranks import Ranks, SingleRank
from qcrd.method.judge.shared import SharedJudge
from qcrd.method.training.checkpoint import capture_state, make_empty_tensor, restore_state
from qcrd.method.training.negatives.sampler import copy_student
from qcrd.method.training.optimizer_step import OptimizerStep
from qcrd.method.training.progress import StepFinished
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.weight_history import copy_trainable_weights
from qcrd.records.specs.training_spec import ManyToOneScheme
from qcrd.runtime.storage.unreadable import UnreadableObjects
from services.trainer.checkpoints.store import CheckpointStore
from services.trainer.run import run_rank
from services.trainer.supervision.process_outcome import Outcome, write_outcome
from tests.unit.method.training.test_trainer import judge, lessons, spec, student, validate

WITHOUT_JUDGE = "dss+positives+negatives"
"""A judge of this process would have to be saved too."""


class FolderStore:
    """Objects as files, which processes share."""

    def __init__(self, folder: str) -> None:
        self.unreadable = UnreadableObjects()
        self._folder = Path(folder)

    def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.read(length))

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        if not (self._folder / key).exists():
            raise NotFound(key)
        with (self._folder / key).open("rb") as file:
            yield file

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[str]:
        found = (path for path in self._folder.rglob("*") if path.is_file())
        names = (str(path.relative_to(self._folder)) for path in found)
        return sorted(n for n in names if n.startswith(prefix) and n > after)[:limit]

    def delete(self, key: str) -> None:
        (self._folder / key).unlink(missing_ok=True)

    def presign_url(self, key: str, *, seconds: int) -> str:
        raise NotImplementedError


class Scenarios:
    """Each by its name, on `ranks`; sharded over `mesh` if there is one."""

    def __init__(self, ranks: Ranks, mesh: DeviceMesh | None) -> None:
        self.ranks = ranks
        self.mesh = mesh

    def run(self, command: str) -> Any:
        name, *arguments = command.split(":")
        return getattr(self, name)(*arguments)

    def make_trainer(
        self, method: str, kind: str, micro_batches: int = 1, scheme: str = "min_max"
    ) -> Trainer:
        settings = spec(batch_size=7)
        loss = settings.loss.model_copy(update={"scheme": ManyToOneScheme(scheme)})
        settings = settings.model_copy(update={"loss": loss})
        schedule = make_schedule(method, settings, n_examples=len(lessons()), seed=5)
        schedule = replace(schedule, micro_batches=micro_batches)
        trained = student(kind)
        trained.ranks = self.ranks
        whole = None if self.mesh is None else copy_student(trained)
        shared = SharedJudge(judge() if self.ranks.is_main else None, self.ranks)
        return Trainer(
            trained, lessons(), schedule, validate, shared, mesh=self.mesh, whole_student=whole
        )

    def whole_weights(self, trainer: Trainer) -> dict[str, torch.Tensor]:
        return sharding.gather_whole(
            copy_trainable_weights(trainer.student), trainer.student.device
        )

    def curve(
        self, method: str, kind: str, micro_batches: str = "1", scheme: str = "min_max"
    ) -> Any:
        """The loss of each step, the weights at the end, and the work."""
        trainer = self.make_trainer(method, kind, int(micro_batches), scheme)
        steps = [record for record in trainer.run() if isinstance(record, StepFinished)]
        losses = [step.losses | {"norm": step.gradient_norm} for step in steps]
        work = {"flops": trainer.flops, "tokens": trainer.student.tokens}
        return losses, self.whole_weights(trainer), work

    def uneven(self, kind: str) -> Any:
        """One rank has a long question without positives, the other seven with them."""
        examples = lessons()
        long = replace(examples[0], text=" thing" * 900, positives=(), negatives=())
        trained = student(kind)
        trained.ranks = self.ranks
        schedule = make_schedule("qcrd", spec(), n_examples=8, seed=5)
        step = OptimizerStep(trained, schedule, self.mesh)
        batch = [*examples[1:], long]
        shares = self.ranks.gather(lambda: sum(map(len, step.split(batch))))
        return shares, step.backward(batch, {}, 1), step.clip_gradients()

    def save(self, folder: str, kind: str, steps: str) -> None:
        """Train so many steps and save the state."""
        trainer = self.make_trainer(WITHOUT_JUDGE, kind)
        store = self._open(folder)
        for record in trainer.run():
            if isinstance(record, StepFinished) and record.step == int(steps):
                break
        store.save("qcrd", capture_state(trainer))

    def resume(self, folder: str, kind: str) -> Any:
        """Go on from the saved state; the losses from there, and the weights at the end."""
        trainer = self.make_trainer(WITHOUT_JUDGE, kind)
        state, rejected = self._open(folder).load("qcrd", partial(make_empty_tensor, trainer))
        assert state is not None, rejected
        restore_state(trainer, state)
        steps = [record for record in trainer.run() if isinstance(record, StepFinished)]
        return [step.losses for step in steps], self.whole_weights(trainer)

    def errors(self) -> list[str]:
        """What every rank sees when one of them, and when the main one, raises an error of ours."""
        calls: list[Callable[[], object]] = [
            lambda: self.ranks.gather(partial(self._refuse_on, self.ranks.size - 1)),
            lambda: self.ranks.run_on_main(partial(self._refuse_on, 0)),
            lambda: self.ranks.gather_in_background(partial(self._refuse_on, 0)),
        ]
        seen = []
        for call in calls:
            try:
                call()
            except Invalid as error:
                seen.append(f"{error.message}, {error.param}")
        return self.ranks.gather(lambda: seen)

    def die(self) -> None:
        """The last rank is killed while the others wait for it."""
        if self.ranks.rank == self.ranks.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self.ranks.gather(lambda: None)

    def _refuse_on(self, rank: int) -> None:
        if self.ranks.rank == rank:
            raise Invalid(f"rank {rank} refuses", param="training_file")

    def _open(self, folder: str) -> CheckpointStore:
        return CheckpointStore(
            FolderStore(folder), "ftjob-1", run_digest="run", interval_seconds=0, ranks=self.ranks
        )


def run_alone(commands: Sequence[str]) -> list[Any]:
    scenarios = Scenarios(SingleRank(), None)
    return [scenarios.run(command) for command in commands]


def fail_on_the_last(ranks: Ranks) -> Outcome:
    """Its memory runs out while the others are in a step's collective with it."""
    if ranks.rank == ranks.size - 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    ranks.sum([1.0])
    return Outcome(kind="done")


def main() -> None:
    shards, out, *commands = sys.argv[1:]
    torch.set_num_threads(1)
    if commands == ["fail"]:
        outcome = run_rank(fail_on_the_last)
        if is_main_process():
            write_outcome(Path(out), outcome)
        return
    with ProcessRanks() as ranks:
        mesh = (
            sharding.build_mesh("cpu", replicas=ranks.size, shards=1)
            if shards == "copies"
            else sharding.make_mesh("cpu", replicas=ranks.size // int(shards), shards=int(shards))
        )
        scenarios = Scenarios(ranks, mesh)
        results = [scenarios.run(command) for command in commands]
        if ranks.is_main:
            torch.save(results, Path(out))
        ranks.finish()


if __name__ == "__main__":
    main()
