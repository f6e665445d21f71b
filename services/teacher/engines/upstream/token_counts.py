"""Tokens of a text where the upstream did not tell them: counted by a tokenizer, else by bytes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcrd.errors import Invalid
from services.teacher.engines.base import SimpleToken, ValidGenerateRequest, get_byte_offsets

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTES_PER_TOKEN = 3
"""English has four to five bytes a token under today's vocabularies, so this counts too many."""
MAX_CACHED_PROMPTS = 1024
"""Prompts whose count is kept: a job samples each of them several times."""
Tokenize = Callable[[str], Awaitable[Sequence[SimpleToken] | None]]


class TokenCounter:
    """`tokenize` returns None where there is no tokenizer."""

    def __init__(self, tokenize: Tokenize) -> None:
        self._tokenize = tokenize
        self._prompt_counts: OrderedDict[str, int] = OrderedDict()

    async def count_prompt(self, request: ValidGenerateRequest) -> int:
        if request.prompt_token_ids is not None:
            return len(request.prompt_token_ids)
        prompt = _get_prompt_text(request)
        if prompt not in self._prompt_counts:
            self._prompt_counts[prompt] = await self._count(prompt)
        self._prompt_counts.move_to_end(prompt)
        while len(self._prompt_counts) > MAX_CACHED_PROMPTS:
            self._prompt_counts.popitem(last=False)
        return self._prompt_counts[prompt]

    async def count_answer(self, text: str, chunks: int) -> int:
        """The upper of the two counts: no chunk holds less than a token that was paid for."""
        return max(chunks, await self._count(text))

    async def _count(self, text: str) -> int:
        tokens = await self._tokenize(text) if text else ()
        if tokens is None:
            return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)
        return len(tokens)


def _get_prompt_text(request: ValidGenerateRequest) -> str:
    if request.conversation is None:
        return request.prompt
    return "\n".join(str(message.get("content")) for message in request.conversation.messages)


class LocalTokenizer:
    """The upstream model's tokenizer as a file on this machine."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, path: Path) -> LocalTokenizer:
        """Of `tokenizer.json` or the folder that has it. Raises `Invalid`."""
        from tokenizers import Tokenizer

        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            return cls(Tokenizer.from_file(str(file)))
        # `tokenizers` raises plain exceptions for a file that is missing or no tokenizer.
        except Exception as error:
            raise Invalid(
                f"TEACHER_UPSTREAM_TOKENIZER={path}: no tokenizer can be read there ({error}): "
                "give a tokenizer.json or the folder that has it",
                param="TEACHER_UPSTREAM_TOKENIZER",
            ) from error

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[SimpleToken]:
        encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        starts = get_byte_offsets(text)
        return [
            SimpleToken(token, text[start:stop], starts[start], starts[stop])
            for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]


def parse_tokens(body: Any) -> list[SimpleToken] | None:
    """The answer of vLLM's, SGLang's or llama.cpp's `/tokenize`; None when it is another one's."""
    tokens = body.get("tokens") if isinstance(body, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        return None
    return [SimpleToken(token, "", 0, 0) for token in tokens]
