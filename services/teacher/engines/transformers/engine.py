"""transformers models from a folder or a .gguf file, on one worker thread.

Requests join and leave between two tokens: decoder-only models over one cache (`continuous`),
encoder-decoders and models with a cache of another kind as batches side by side (`cohorts`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from services.teacher.engines.base import (
    Conversation,
    EngineInfo,
    Grammar,
    SimpleToken,
    Token,
    ValidGenerateRequest,
)
from services.teacher.errors import GenerationFailed, MissingTemplateVariable, TemplateFailed
from services.teacher.metrics.batches import Batches

if TYPE_CHECKING:
    from services.teacher.engines.transformers.weights import Model, Precision
    from services.teacher.engines.transformers.worker import Worker

# A sequence without a stated limit; the longest context that still fits most small machines.
DEFAULT_CONTEXT = 2048


class LocalEngine:
    """`budget`: tokens of prompt and answer that all running requests may reach together.
    `prefill`: prompt tokens read between two steps of the running requests.
    """

    def __init__(
        self,
        path: Path,
        model_id: str,
        *,
        threads: int,
        slots: int,
        max_total_tokens: int | None,
        max_input_tokens: int | None,
        precision: Precision = "auto",
        adapters: Mapping[str, str] | None = None,
        budget: int | None = None,
        prefill: int = 2048,
    ) -> None:
        self._path, self._model_id = path, model_id
        self._threads, self._slots = threads, slots
        self._precision, self._adapters = precision, dict(adapters or {})
        self._budget, self._prefill = budget, prefill
        self._limits = (max_input_tokens, max_total_tokens)
        self._model: Model | None = None
        self._worker: Worker | None = None
        self._info: EngineInfo | None = None
        self.batches = Batches()

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None
        return self._info

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens that went through the model; those copied from other rows did not."""
        return self._worker.running.prefilled_tokens if self._worker else 0

    @property
    def largest_batch(self) -> int:
        """Requests that have run at once."""
        return self._worker.largest_batch if self._worker else 0

    async def start(self) -> None:
        await asyncio.to_thread(self._load)
        assert self._worker is not None
        self._worker.thread.start()

    async def tokenize(self, text: str, *, special: bool = True) -> Sequence[SimpleToken]:
        return await asyncio.to_thread(self._pieces, text, special)

    async def template(self, conversation: Conversation) -> str:
        return await asyncio.to_thread(self._template, conversation)

    async def prefill(self, request: ValidGenerateRequest) -> Sequence[Token]:
        from services.teacher.engines.transformers.worker import Scoring

        assert self._model is not None
        assert self._worker is not None
        if self._model.seq2seq:
            return ()
        scoring = Scoring(request)
        self._worker.arriving.put(scoring)
        return await asyncio.wrap_future(scoring.result)

    async def check_grammar(self, grammar: Grammar) -> None:
        from services.teacher.engines import grammars

        await asyncio.to_thread(grammars.check_grammar, grammar)

    async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        from services.teacher.engines.transformers.worker import Stream

        assert self._worker is not None
        stream = Stream(request, asyncio.get_running_loop())
        self._worker.arriving.put(stream)
        try:
            while (item := await stream.inbox.get()) is not None:
                if isinstance(item, Exception):
                    raise GenerationFailed(str(item)) from item
                yield item
        finally:
            stream.closed.set()

    async def close(self) -> None:
        if self._worker is not None and self._worker.thread.is_alive():
            self._worker.arriving.put(None)
            await asyncio.to_thread(self._worker.thread.join)

    def _load(self) -> None:
        import torch

        from services.teacher.engines.transformers import weights
        from services.teacher.engines.transformers.worker import Room, Worker

        torch.set_num_threads(self._threads)
        model = weights.load(self._path, precision=self._precision, adapters=self._adapters)
        asked_input, asked_total = self._limits
        total = asked_total or min(model.positions, DEFAULT_CONTEXT)
        room = Room(self._slots, total, self._budget or self._slots * total, self._prefill)
        self.batches.holds(room.budget)
        self._model, self._worker = model, Worker(model, room, self.batches)
        self._info = EngineInfo(
            self._model_id,
            "local",
            asked_input or total - 1,
            total,
            supports_grammar=self._worker.vocabulary is not None,
            adapters=model.adapters,
            # The hub's cache names a snapshot's folder by its commit.
            model_sha=self._path.name if self._path.parent.name == "snapshots" else None,
            pipeline_tag="text2text-generation" if model.seq2seq else "text-generation",
            supports_prompt_logprobs=not model.seq2seq,
        )

    def _pieces(self, text: str, special: bool) -> list[SimpleToken]:
        assert self._model is not None
        tokenizer = self._model.tokenizer
        if not tokenizer.is_fast:
            ids = tokenizer(text, add_special_tokens=special)["input_ids"]
            return [SimpleToken(i, "", 0, 0) for i in ids]
        out = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        at = byte_offsets(text)
        return [
            SimpleToken(i, text[start:stop], at[start], at[stop])
            for i, (start, stop) in zip(out["input_ids"], out["offset_mapping"], strict=True)
        ]

    def _template(self, conversation: Conversation) -> str:
        from jinja2 import TemplateError, UndefinedError

        assert self._model is not None
        tokenizer = self._model.tokenizer
        if not tokenizer.chat_template:
            raise TemplateFailed("the model has no chat template")
        try:
            text = tokenizer.apply_chat_template(
                [dict(message) for message in conversation.messages],
                tools=[dict(tool) for tool in conversation.tools] or None,
                add_generation_prompt=True,
                tokenize=False,
            )
        except UndefinedError as error:
            raise MissingTemplateVariable(str(error)) from error
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise TemplateFailed(str(error)) from error
        return str(text)


def byte_offsets(text: str) -> Sequence[int]:
    """Where each character of `text` begins in its UTF-8 bytes, and last where they end."""
    if text.isascii():
        return range(len(text) + 1)
    return [0, *accumulate(len(character.encode()) for character in text)]
