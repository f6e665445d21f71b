"""What a round of batches has learnt, kept for the job's next attempt."""

from __future__ import annotations

from dataclasses import dataclass

from qcrd.records.specs.spec import Budget
from qcrd.records.teachers.prompt import PromptStyle
from services.api.assembling.batches.failures import BatchFailure
from services.api.assembling.batches.results import ShardResults
from services.api.assembling.batches.shard import BatchNotes, RefusedLine, Shard, ShardStore
from services.api.assembling.teacher.openai.parameters import ParameterSupport

MIN_LINES = 10
"""Of a batch, however little room the provider has: each of them may take a day."""


@dataclass
class RoundNotes:
    """`support` is what is known of the provider, which is written with everything else."""

    shards: ShardStore
    support: ParameterSupport
    style: PromptStyle
    notes: BatchNotes

    def write(self, **changes: object) -> None:
        """What has changed, if anything has."""
        learnt = {"left_out": tuple(self.support.left_out), "max_choices": self.support.max_choices}
        notes = self.notes.model_copy(update={**learnt, "style": self.style, **changes})
        if notes != self.notes:
            self.notes = notes
            self.shards.write_notes(notes)

    def forget_failures(self) -> None:
        """Whoever resumes the job wants everything to be tried again."""
        self.write(refused=(), fruitless=())

    def note_all_asked(self, budget: Budget) -> None:
        self.write(asked_under=budget)

    def note_results(
        self, shard: Shard, results: ShardResults, failure: BatchFailure, *, is_alone: bool
    ) -> None:
        """The same again for a shard that was read before, and not settled. `is_alone`: no other
        one is out."""
        changes = self._note_room(shard, failure, is_alone=is_alone)
        if failure.no_room is None:
            earlier = [name for name in self.notes.fruitless if name != shard.name]
            changes["fruitless"] = (*earlier, shard.name) if results.is_fruitless else ()
        refused = {line.keys: line for line in self.notes.refused}
        for line, error in results.refused:
            keys = tuple(sample.key for sample in line.samples)
            refused[keys] = RefusedLine(keys=keys, reason=error.reason, message=error.message)
        self.write(**changes, refused=tuple(refused.values()), asked_under=None)

    def _note_room(
        self, shard: Shard, failure: BatchFailure, *, is_alone: bool
    ) -> dict[str, object]:
        """After one that the provider had no room for the next waits for the others or, if there
        was no other, is smaller. It grows again where there was room."""
        most = self.notes.max_lines
        if failure.no_room is None:
            return {} if most is None else {"max_lines": max(most, 2 * len(shard.lines))}
        if not is_alone:
            return {"one_at_a_time": True}
        return {"max_lines": max(MIN_LINES, len(shard.lines) // 2)}
