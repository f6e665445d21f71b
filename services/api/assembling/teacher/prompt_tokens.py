"""Prompt token counter: how many tokens a prompt has, told before it is sent."""

from __future__ import annotations

import asyncio
import logging

from cachetools import LRUCache

from qcrd.errors import QcrdError
from services.api.assembling.teacher.teacher_client import TeacherClient
from services.api.assembling.tokens.token_counts import BYTES_PER_TOKEN
from services.api.assembling.tokens.token_sums import Tokens

log = logging.getLogger(__name__)

MAX_KEPT_PROMPTS = 4096
"""Whose tokens are remembered: more than are asked at once. Others are counted or estimated anew,
and no estimate is lower than the densest prompt that was ever told."""


def estimate_prompt_tokens(
    prompt: str, tokens: int = 1, per_bytes: int = BYTES_PER_TOKEN
) -> Tokens:
    """From the bytes of `prompt`, of which so many have so many tokens, rounded up."""
    return Tokens(prompt=-(-len(prompt.encode()) * tokens // per_bytes), estimated=True)


class PromptTokenCounter:
    """Asks the teacher's tokenizer, where `asks_teacher` and it has one; else estimates. What its
    answers tell is believed before either."""

    def __init__(self, client: TeacherClient, *, asks_teacher: bool) -> None:
        self._client = client
        self._asks_teacher = asks_teacher
        self._told: LRUCache[str, int] = LRUCache(MAX_KEPT_PROMPTS)
        self._counted: LRUCache[str, int] = LRUCache(MAX_KEPT_PROMPTS)
        self._excess = 0
        """Tokens that the teacher puts around a prompt and its tokenizer does not count."""
        self._densest = (1, BYTES_PER_TOKEN)
        """Tokens and bytes of the prompt with the most tokens per byte."""
        self._lock = asyncio.Lock()

    async def count(self, prompt: str) -> Tokens:
        if prompt not in self._told and self._asks_teacher:
            async with self._lock:  # all samples of a prompt ask at about the same time
                await self._ask_teacher(prompt)
        if prompt in self._told:
            return Tokens(prompt=self._told[prompt])
        if prompt in self._counted:
            return Tokens(prompt=self._counted[prompt] + self._excess)
        return estimate_prompt_tokens(prompt, *self._densest)

    def learn(self, prompt: str, tokens: int) -> None:
        """An answer told how many tokens `prompt` has. Others are expected to have no fewer per
        byte, so that the budget still holds where the estimate was too low."""
        self._told[prompt] = tokens
        if prompt in self._counted:
            self._excess = max(self._excess, tokens - self._counted[prompt])
        size, (most, per_bytes) = max(1, len(prompt.encode())), self._densest
        if tokens * per_bytes > most * size:
            self._densest = (tokens, size)

    async def _ask_teacher(self, prompt: str) -> None:
        if prompt in self._counted or prompt in self._told or not self._asks_teacher:
            return
        try:
            (self._counted[prompt],) = await self._client.count_tokens([prompt])
        except QcrdError as error:
            log.warning("prompts are not counted by the teacher but estimated: %s", error)
            self._asks_teacher = False
