"""transformers models from a folder or a .gguf file, in one worker or several.

Requests join and leave between two tokens: decoder-only models over one cache
(`ContinuousBatch`), encoder-decoders and models with another kind of cache as batches side by side
(`StaticBatches`). The first worker is a thread and the others are processes; they share the weights
and have a cache each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.teacher.engines.base import (
    Conversation,
    EngineInfo,
    Grammar,
    SimpleToken,
    Token,
    ValidGenerateRequest,
    get_byte_offsets,
)
from services.teacher.engines.copies import choose_copy, share_slots
from services.teacher.errors import GenerationFailed, MissingTemplateVariable, TemplateFailed
from services.teacher.metrics.batches import BatchMetrics

if TYPE_CHECKING:
    from services.teacher.engines.transformers.continuous_batching import ContinuousBatch
    from services.teacher.engines.transformers.request_stream import Worker
    from services.teacher.engines.transformers.static_batching import StaticBatches
    from services.teacher.engines.transformers.weights import LoadedModel, Precision
    from services.teacher.engines.transformers.worker import BatchLimits, WorkerThread

log = logging.getLogger(__name__)

# A sequence without a stated limit; the longest context that still fits most small machines.
DEFAULT_CONTEXT = 2048


class TransformersEngine:
    """`max_batch_total_tokens`: tokens of prompt and output that all running requests may reach
    together. `prefill`: prompt tokens read between two steps of the running requests. `device`: by
    default the GPU if there is one. `replicas`: workers that share out `slots` on a CPU, each with
    `threads`; an accelerator has one.
    """

    def __init__(
        self,
        path: Path,
        model_id: str,
        *,
        threads: int,
        slots: int,
        replicas: int = 1,
        max_total_tokens: int | None,
        max_input_tokens: int | None,
        precision: Precision = "auto",
        adapters: Mapping[str, str] | None = None,
        max_batch_total_tokens: int | None = None,
        max_batch_prefill_tokens: int = 2048,
        device: str | None = None,
    ) -> None:
        self._path, self._model_id = path, model_id
        self._threads, self._slots, self._replicas = threads, slots, replicas
        self._precision, self._adapters = precision, dict(adapters or {})
        self._device = device
        self._max_batch_total_tokens, self._max_batch_prefill_tokens = (
            max_batch_total_tokens,
            max_batch_prefill_tokens,
        )
        self._limits = (max_input_tokens, max_total_tokens)
        self._model: LoadedModel | None = None
        self._first: WorkerThread | None = None
        self._workers: list[Worker] = []
        self._info: EngineInfo | None = None
        self.batch_metrics = BatchMetrics()
        self.on_failure: Callable[[str], None] = log.critical

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None
        return self._info

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens that went through the model; those copied from other slots did not."""
        return sum(worker.prefilled_tokens for worker in self._workers)

    @property
    def largest_batch(self) -> int:
        """The most requests that have run at once in one worker."""
        return max((worker.largest_batch for worker in self._workers), default=0)

    @property
    def batch(self) -> ContinuousBatch | StaticBatches:
        """The sequences that the first worker runs now, once the engine has started."""
        assert self._first is not None
        return self._first.batch

    async def start(self) -> None:
        await asyncio.to_thread(self._load)
        for worker in self._workers:
            worker.start()

    async def tokenize(
        self, text: str, *, add_special_tokens: bool = True
    ) -> Sequence[SimpleToken]:
        return await asyncio.to_thread(self._tokenize, text, add_special_tokens)

    async def apply_chat_template(self, conversation: Conversation) -> str:
        return await asyncio.to_thread(self._apply_chat_template, conversation)

    async def score_prompt(self, request: ValidGenerateRequest) -> Sequence[Token]:
        from services.teacher.engines.transformers.request_stream import ScoringRequest

        assert self._model is not None
        if self._model.seq2seq:
            return ()
        scoring = ScoringRequest(request)
        worker = choose_copy(self._workers, request.prompt)
        with worker.track_request(request.prompt):
            worker.submit(scoring)
            return await asyncio.wrap_future(scoring.result)

    async def check_grammar(self, grammar: Grammar) -> None:
        from services.teacher.engines import grammars

        await asyncio.to_thread(grammars.check_grammar, grammar)

    async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        from services.teacher.engines.transformers.request_stream import RequestStream

        stream = RequestStream(request, asyncio.get_running_loop())
        worker = choose_copy(self._workers, request.prompt)
        with worker.track_request(request.prompt):
            worker.submit(stream)
            try:
                while (item := await stream.inbox.get()) is not None:
                    if isinstance(item, Exception):
                        raise GenerationFailed(str(item)) from item
                    yield item
            finally:
                worker.cancel(stream)

    async def close(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(worker.close) for worker in self._workers))

    def _load(self) -> None:
        import torch

        from services.teacher.engines.transformers import weights
        from services.teacher.engines.transformers.grammar_mask import build_grammar_tokenizer
        from services.teacher.engines.transformers.worker import BatchLimits

        # A process that is forked when there are threads of OpenMP waits for them for ever.
        torch.set_num_threads(1)
        model = weights.load_model(
            self._path, precision=self._precision, adapters=self._adapters, device=self._device
        )
        max_input_tokens, max_total_tokens = self._limits
        output = model.max_output_positions or 0
        total = max_total_tokens or min(model.max_positions, DEFAULT_CONTEXT) + output
        limits = BatchLimits(
            self._slots,
            total,
            self._max_batch_total_tokens or self._slots * total,
            self._max_batch_prefill_tokens,
        )
        self.batch_metrics.set_capacity(limits.max_batch_total_tokens)
        self._model = model
        grammar_tokenizer = build_grammar_tokenizer(model)
        self._make_workers(model, limits, grammar_tokenizer)
        torch.set_num_threads(self._threads)
        self._info = EngineInfo(
            self._model_id,
            "local",
            max_input_tokens or min(model.max_positions, total - 1),
            total,
            supports_grammar=grammar_tokenizer is not None,
            adapters=model.adapters,
            # The hub's cache names a snapshot's folder by its commit.
            model_sha=self._path.name if self._path.parent.name == "snapshots" else None,
            pipeline_tag="text2text-generation" if model.seq2seq else "text-generation",
            supports_prompt_logprobs=not model.seq2seq,
            max_choices=self._slots,
            max_output_tokens=model.max_output_positions,
        )

    def _make_workers(
        self, model: LoadedModel, limits: BatchLimits, grammar_tokenizer: Any
    ) -> None:
        """As many as there are replicas, sharing out the limits; an accelerator takes one batch at
        a time, however many wait for it."""
        from services.teacher.engines.transformers.worker import WorkerSetup, WorkerThread
        from services.teacher.engines.transformers.worker_process import WorkerProcess

        replicas = self._replicas if model.net.device.type == "cpu" else 1
        budget = limits.max_batch_total_tokens
        shares = [
            replace(limits, slots=slots, max_batch_total_tokens=budget * slots // limits.slots)
            for slots in share_slots(limits.slots, replicas)
        ]
        own, *others = [WorkerSetup(model, share, grammar_tokenizer) for share in shares]
        forked = [
            WorkerProcess(
                each,
                self.batch_metrics,
                threads=self._threads,
                on_death=lambda reason: self.on_failure(reason),
            )
            for each in others
        ]
        self._first = WorkerThread(own, self.batch_metrics)
        self._workers = [self._first, *forked]

    def _tokenize(self, text: str, add_special_tokens: bool) -> list[SimpleToken]:
        assert self._model is not None
        tokenizer = self._model.tokenizer
        if not tokenizer.is_fast:
            ids = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
            return [SimpleToken(i, "", 0, 0) for i in ids]
        encoding = tokenizer(
            text, add_special_tokens=add_special_tokens, return_offsets_mapping=True
        )
        offsets = get_byte_offsets(text)
        return [
            SimpleToken(i, text[start:stop], offsets[start], offsets[stop])
            for i, (start, stop) in zip(
                encoding["input_ids"], encoding["offset_mapping"], strict=True
            )
        ]

    def _apply_chat_template(self, conversation: Conversation) -> str:
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
