"""A round of a job's questions by batch: what is out is followed, what is missing is asked for.

It holds no worker while a batch is out: the stage gives way, and looks again later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain

from openai.types import Batch

from qcrd.errors import Interrupted, LeaseLost, QcrdError, Transient
from qcrd.runtime.jobs.stage_context import StageContext
from services.api.assembling.batches import failures
from services.api.assembling.batches.keeping import keep_results
from services.api.assembling.batches.planning import ShardPlanner
from services.api.assembling.batches.results import ENDED, ResultReader, ShardResults
from services.api.assembling.batches.round_notes import RoundNotes
from services.api.assembling.batches.shard import Shard, ShardStore
from services.api.assembling.batches.waiting import (
    make_lookup_error,
    make_room_error,
    make_waiting_error,
)
from services.api.assembling.refusals import RefusalLog
from services.api.assembling.sampling_plan import PromptRequest, SampleRequest, group_by_prompt
from services.api.assembling.sampling_run import SamplingRun
from services.api.assembling.spill.samples import SpilledSamples
from services.api.assembling.teacher.openai.batches import BatchClient
from services.api.assembling.teacher.prompt_refused import PromptRefused
from services.api.assembling.tokens.token_account import TokenAccount

log = logging.getLogger(__name__)

MAX_FRUITLESS = 3
"""Batches in a row of which nothing came, after which the job fails."""


@dataclass
class BatchRun:
    """`samples` are all that the job wants. Of shards that are out the lines are not held."""

    stage: StageContext
    client: BatchClient
    shards: ShardStore
    planner: ShardPlanner
    run: SamplingRun
    refusals: RefusalLog
    samples: SpilledSamples
    notebook: RoundNotes
    lookup_seconds: float
    """After a request for a batch that was not answered, until the list surely has the batch."""
    no_room: str | None = None
    """What the provider says of the room that it has for batches, when it has none now."""
    out: dict[str, tuple[Shard, Batch]] = field(default_factory=dict)

    @property
    def account(self) -> TokenAccount:
        return self.run.account

    async def finish(self, *, asks: bool) -> None:
        """Return when nothing is out and, where it `asks`, nothing is missing but what is refused.

        `Transient` while batches are out, which says what is waited for; `OverBudget` when the next
        request could cost too much; other errors of what asking again does not help.
        """
        try:
            self._recall_refusals()
            for name in self.account.open_shards:
                await self._follow(name)
            if asks:
                await self._ask()
            if self.out:
                raise make_waiting_error(self.client.label, list(self.out.values()))
            if asks and self.no_room is not None:
                raise make_room_error(self.client.label, self.no_room)
        except (Transient, Interrupted, LeaseLost):
            raise
        except QcrdError:
            self.notebook.forget_failures()
            raise
        if self.refusals.is_too_many:  # the job pauses
            self.notebook.forget_failures()

    def _recall_refusals(self) -> None:
        for line in self.notebook.notes.refused:
            self._log_refusal(line.keys, PromptRefused(line.message, line.reason))

    def _log_refusal(self, keys: Sequence[str], error: PromptRefused) -> None:
        if samples := tuple(self.samples[key] for key in keys if key in self.samples):
            self.refusals.add(PromptRequest(samples), error)

    # --- what is out ---------------------------------------------------------------------------

    async def _follow(self, name: str) -> None:
        shard = self.shards.find(name)
        if shard is None or shard.teacher != self.client.fingerprint:
            raise self._give_up(name, shard, "of another teacher server")
        if shard.batch_id is not None:
            batch = await self.client.retrieve(shard.batch_id)
            if batch is None:
                raise self._give_up(name, shard, "that the teacher does not know any more")
        elif (batch := await self.client.find(name)) is not None:
            shard = self._take_up(shard, batch)
        else:
            await self._post_again(shard)
            return
        if batch.status in ENDED:
            await self._take(shard, batch)
        else:
            self._note_out(shard, batch)

    def _note_out(self, shard: Shard, batch: Batch) -> None:
        self.samples.mark_asked(shard.keys)
        self.out[shard.name] = shard.model_copy(update={"lines": ()}), batch

    def _take_up(self, shard: Shard, batch: Batch) -> Shard:
        """The batch was made, and whoever made it did not come to write that down."""
        shard = shard.model_copy(update={"batch_id": batch.id})
        self.shards.write(shard)
        self.stage.emit(
            f"{self.client.label}: an earlier attempt made batch {batch.id}, which is taken up",
            once=f"taken-up-{shard.name}",
            batch=batch.id,
        )
        return shard

    async def _take(self, shard: Shard, batch: Batch) -> None:
        """What came of it, in the cache and in the account at once."""
        results = await ResultReader(self.client, shard).read(batch)
        failure = failures.read_failure(self.client, shard, batch)
        results.has_learnt |= failure.is_learnt
        is_alone = len(self.account.open_shards) == 1
        self.notebook.note_results(shard, results, failure, is_alone=is_alone)
        self.no_room = failure.no_room or self.no_room
        keep_results(self.account, self.run.keep, shard, results)
        self.shards.delete(shard.name)
        await self._delete_input(batch)
        for line, error in results.refused:
            self._log_refusal([sample.key for sample in line.samples], error)
        for line, tokens in results.told_prompts:
            if (request := self.samples.get(line.samples[0].key)) is not None:
                self.planner.prompt_tokens.learn(request.prompt.text, tokens)
        self._tell_end(shard, batch, results)
        if results.generations:
            self.run.check_anything_said(results.generations)
        if (fatal := results.fatal or failure.make_error()) is not None:
            raise fatal
        if len(self.notebook.notes.fruitless) >= MAX_FRUITLESS:
            raise failures.make_fruitless_error(self.client.label, batch, MAX_FRUITLESS)

    async def _delete_input(self, batch: Batch) -> None:
        with suppress(QcrdError):  # it is only in the way
            await self.client.delete_file(batch.input_file_id)

    def _tell_end(self, shard: Shard, batch: Batch, results: ShardResults) -> None:
        asked, came = sum(1 for _ in shard.keys), len(results.generations)
        self.stage.emit(
            f"{self.client.label}: batch {batch.id} {batch.status}: {came} of {asked} outputs, "
            f"{len(results.refused)} of {len(shard.lines)} requests refused",
            once=f"ended-{shard.name}",
            batch=batch.id,
            status=batch.status,
            outputs=came,
            asked=asked,
            refused=len(results.refused),
        )

    def _give_up(self, name: str, shard: Shard | None, why: str) -> QcrdError:
        """A batch whose answers nobody can fetch: what it may have cost is uncertain."""
        self.stage.raise_if_stopping()  # or who has the job now has taken it
        lost = self.account.get_shard(name)
        self.account.settle_shard(name, uncertain=lost)
        self.account.flush()
        self.shards.delete(name)
        return failures.make_lost_error(self.client.label, shard, why, lost)

    # --- what is missing -----------------------------------------------------------------------

    async def _ask(self) -> None:
        while self.no_room is None and not (self.notebook.notes.one_at_a_time and self.out):
            missing = group_by_prompt(self._iter_missing())
            if (first := next(missing, None)) is None:
                break
            shard = await self.planner.plan(chain([first], missing), self.notebook.notes.max_lines)
            if shard is not None:
                await self._post(self._write_down(shard))
                continue
            if self.out:
                break
            smallest = await self.planner.count_smallest(first)
            raise self.planner.budget.make_over_budget_error(smallest)
        if self.out:
            self.notebook.note_all_asked(self.stage.job.budget)

    def _iter_missing(self) -> Iterator[SampleRequest]:
        refused = {key for line in self.notebook.notes.refused for key in line.keys}
        for request in self.samples.iter_missing():
            key = request.key
            is_asked = key in refused or self.samples.is_asked(key)
            if not is_asked and not self.refusals.skips(request.prompt):
                yield request

    def _write_down(self, shard: Shard) -> Shard:
        """First which samples it is for, then what it can cost at most: it is sent after both."""
        shard = shard.model_copy(update=self._list_parameters(shard))
        self.notebook.write()
        self.shards.write_new(shard)
        self.account.reserve_shard(shard.name, shard.reserved)
        self.account.flush()
        return shard

    def _list_parameters(self, shard: Shard) -> dict[str, object]:
        """Those of its requests as they would be sent now."""
        names = {
            name
            for request in self._iter_requests(shard)
            for name in self.client.list_parameters(request, self.planner.sampling)
        }
        return {"parameters": tuple(sorted(names))}

    def _iter_requests(self, shard: Shard) -> Iterator[PromptRequest]:
        for line in shard.lines:
            yield PromptRequest(tuple(self.samples[sample.key] for sample in line.samples))

    async def _post_again(self, shard: Shard) -> None:
        """One that was written down, and of which there is no batch."""
        if (rest := shard.sent_at + self.lookup_seconds - time.time()) > 0:
            raise make_lookup_error(self.client.label, rest)
        if all(key in self.samples for key in shard.keys):
            await self._post(shard.model_copy(update=self._list_parameters(shard)))
        else:  # of an earlier release's plan
            self._settle_unsent(shard)

    def _settle_unsent(self, shard: Shard) -> None:
        self.stage.raise_if_stopping()  # or who has the job now may have sent it
        self.account.settle_shard(shard.name)
        self.account.flush()
        self.shards.delete(shard.name)

    async def _post(self, shard: Shard) -> None:
        """What the teacher refuses costs nothing. After other errors there may be a batch: the next
        attempt looks for it."""
        shard = shard.model_copy(update={"sent_at": time.time()})
        self.shards.write(shard)
        requests = self._iter_requests(shard)
        lines = (
            self.client.build_line(line.custom_id, request, self.planner.sampling)
            for line, request in zip(shard.lines, requests, strict=True)
        )
        first = next(self._iter_requests(shard))
        # A process that stood still may find the job gone, and has to pay for nothing then.
        check = self.stage.raise_if_stopping
        try:
            batch = await self.client.create(shard.name, lines, first, check)
        except (Transient, Interrupted, LeaseLost):
            raise
        except QcrdError:
            self._settle_unsent(shard)
            raise
        shard = shard.model_copy(update={"batch_id": batch.id})
        self.shards.write(shard)
        self._note_out(shard, batch)
        self.stage.emit(
            f"{self.client.label} is asked by batch {batch.id}: {len(shard.lines)} requests for "
            f"{sum(1 for _ in shard.keys)} outputs",
            once=f"asked-{shard.name}",
            batch=batch.id,
            requests=len(shard.lines),
        )
