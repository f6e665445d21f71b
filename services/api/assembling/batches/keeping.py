"""Keeps what came of a shard: its outputs for all jobs, its cost in the job's account, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.api.assembling.batches.results import ShardResults
from services.api.assembling.batches.shard import Shard
from services.api.assembling.generation_cache import Generation
from services.api.assembling.tokens.token_account import TokenAccount

CHUNK = 2000
"""Outputs in one write, about 2 MB."""


def keep_results(
    account: TokenAccount,
    keep: Callable[[Sequence[Generation]], None],
    shard: Shard,
    results: ShardResults,
) -> None:
    """`keep` writes outputs, and with them what has changed in the account. The last write settles
    it: until then all of the shard is reserved, and a process that dies before has the same written
    again by the next one."""
    *first, last = split_generations(results.generations) or [[]]
    for chunk in first:
        keep(chunk)
    account.settle_shard(shard.name, spent=results.spent, uncertain=results.uncertain)
    keep(last)


def split_generations(generations: Sequence[Generation]) -> list[Sequence[Generation]]:
    """Into what is written at once."""
    return [generations[start : start + CHUNK] for start in range(0, len(generations), CHUNK)]
