"""Tokens that a teacher did not count: by its own tokenizer, else by bytes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from qcrd.errors import QcrdError

BYTES_PER_TOKEN = 3
"""English has four to five bytes a token under today's vocabularies, so this counts too many."""
MAX_CACHED_TEXTS = 1024
"""Texts whose count is kept: a prompt is sampled several times."""


class TokenEstimator:
    """`count_tokens` asks the teacher, and raises `QcrdError` where it has no answer."""

    def __init__(self, count_tokens: Callable[[Sequence[str]], Awaitable[list[int]]]) -> None:
        self._count_tokens = count_tokens
        self._counts: OrderedDict[str, int] = OrderedDict()

    async def count(self, text: str) -> int:
        if text not in self._counts:
            self._counts[text] = await self._ask(text)
        self._counts.move_to_end(text)
        while len(self._counts) > MAX_CACHED_TEXTS:
            self._counts.popitem(last=False)
        return self._counts[text]

    async def _ask(self, text: str) -> int:
        try:
            (count,) = await self._count_tokens([text])
        except QcrdError:
            return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)
        return count
