"""What an ended batch brought: its answers, what they cost, and why the others are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from openai.types import Batch

from qcrd.errors import QcrdError, Transient
from services.api.assembling.batches.answers import LineRefusal, read_line
from services.api.assembling.batches.shard import Shard, ShardLine
from services.api.assembling.generation_cache import Generation
from services.api.assembling.teacher.openai.batches import BatchClient
from services.api.assembling.teacher.openai.errors import make_status_error
from services.api.assembling.teacher.openai.stream import StreamedAnswer, build_completions
from services.api.assembling.teacher.prompt_refused import PromptRefused
from services.api.assembling.teacher.teacher_client import Completion, match_samples
from services.api.assembling.tokens.token_counts import BYTES_PER_TOKEN, TokenEstimator
from services.api.assembling.tokens.token_sums import NOTHING, Tokens

ENDED = frozenset({"completed", "expired", "cancelled", "failed"})


@dataclass
class ShardResults:
    """`spent` is summed over all answers, and `uncertain` what may have been spent for lines of
    which nothing came. `fatal` is what asking again does not help."""

    generations: list[Generation] = field(default_factory=list)
    spent: Tokens = NOTHING
    uncertain: Tokens = NOTHING
    refused: list[tuple[ShardLine, PromptRefused]] = field(default_factory=list)
    told_prompts: list[tuple[ShardLine, int]] = field(default_factory=list)
    """Lines whose prompt was counted by the provider, with its tokens."""
    has_learnt: bool = False
    fatal: QcrdError | None = None

    @property
    def is_fruitless(self) -> bool:
        return not (self.generations or self.refused or self.has_learnt)


class ResultReader:
    """Reads the results of one shard; what the provider refused is learnt by the client's
    `support`."""

    def __init__(self, client: BatchClient, shard: Shard) -> None:
        self._client = client
        self._shard = shard
        self._lines = {line.custom_id: line for line in shard.lines}
        self._results = ShardResults()
        self._answers = 0

    async def read(self, batch: Batch) -> ShardResults:
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id:
                async for told in self._client.iter_lines(file_id):
                    # Each line counts once, whatever is told of it again.
                    line = self._lines.pop(str(told.get("custom_id")), None)
                    if line is not None:
                        await self._add(line, read_line(told, self._client.secrets))
        self._results.uncertain += self._estimate_lost(batch)
        return self._results

    async def _add(self, line: ShardLine, told: StreamedAnswer | LineRefusal) -> None:
        if isinstance(told, LineRefusal):
            self._add_refusal(line, told)
            return
        self._answers += 1
        estimator = TokenEstimator(_count_bytes)
        # Only its length counts, where the provider does not count.
        text = "x" * line.prompt_bytes
        completions = await build_completions(told, text, estimator)
        self._client.support.learn_choices(len(line.samples), len(told.choices))
        if not completions:
            if told.told_usage is None:
                self._results.uncertain += line.reserved
            else:
                self._results.spent += told.told_usage.by_batch()
            if told.is_filtered:
                message = f"{self._client.label} filters its answer to a prompt"
                self._results.refused.append((line, PromptRefused(message, "filtered")))
            return
        self._add_completions(line, completions)

    def _add_completions(self, line: ShardLine, completions: Sequence[Completion]) -> None:
        if not completions[0].estimated:
            self._results.told_prompts.append((line, completions[0].prompt_tokens))
        for each in completions:
            self._results.spent += Tokens(
                each.prompt_tokens, each.completion_tokens, each.estimated, each.cached_tokens
            ).by_batch()
        self._results.generations += [
            Generation.make(sample.key, sample.index, each, self._shard.job_id)
            for sample, each in match_samples(line.samples, completions)
        ]

    def _add_refusal(self, line: ShardLine, refusal: LineRefusal) -> None:
        if refusal.status is None:
            return  # it was not executed, or nothing is known of it: it is asked again
        sent = dict.fromkeys(self._shard.parameters) | {"n": len(line.samples)}
        if self._client.support.learn_refusal(refusal.status, refusal.told, sent):
            self._results.has_learnt = True
            return
        error = make_status_error(self._client.label, refusal.status, refusal.told, {})
        if isinstance(error, PromptRefused):
            self._results.refused.append((line, error))
        elif not isinstance(error, Transient):
            self._results.fatal = self._results.fatal or error

    def _estimate_lost(self, batch: Batch) -> Tokens:
        """What the provider says that it completed and did not hand out will be charged: the
        dearest of the lines that are missing."""
        counts = batch.request_counts
        lost = max(0, (counts.completed if counts else 0) - self._answers)
        missing = sorted((line.reserved for line in self._lines.values()), key=_get_total)
        return sum(missing[len(missing) - lost :] if lost else [], NOTHING)


def _get_total(tokens: Tokens) -> int:
    return tokens.total


async def _count_bytes(texts: Sequence[str]) -> list[int]:
    """No tokenizer is asked: texts are counted by their bytes."""
    return [-(-len(text.encode()) // BYTES_PER_TOKEN) for text in texts]
