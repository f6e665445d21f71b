"""What a student writes: greedy or drawn, free or held to a form, with what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any, Literal

import torch
from torch import Tensor

from qcrd.method.batching import split_evenly
from qcrd.method.student import generation
from qcrd.method.student.counted_model import CountedModel
from qcrd.method.student.generation import OutputForm
from qcrd.method.student.targets import GeneratedText, Target

SAMPLING_ROWS = {"cuda": 256}
"""Outputs that are drawn at once at most, by kind of device, elsewhere 64: on a GPU what a token
costs is the launch of every kernel, on a CPU a product of 32 rows takes more than half of the time
of one of 64."""
CPU_BATCHES = 2
"""On CPUs outputs go into a multiple of so many batches, so that two ranks have as many each."""


class StudentOutputs(CountedModel):
    """A model that generates in batches, which ranks share. `output_continues_prompt`: both are one
    sequence, so that what an output begins with can be read with its prompt."""

    output_continues_prompt = False

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int, **how: Any) -> list[str]:
        """The texts of `sample`."""
        outputs = self.sample(prompts, max_new_tokens=max_new_tokens, **how)
        return [output.text for output in outputs]

    def sample(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int | None = None,
        options: Sequence[str] = (),
        beginnings: Sequence[Target] = (),
        answers: Literal["untold", "all", "marked"] = "untold",
        check: Callable[[], None] = lambda: None,
    ) -> list[GeneratedText]:
        """One output per prompt; greedy at temperature 0, else drawn from the smallest set of
        tokens with `top_p` of the probability, by default all of them. Where `options` are given,
        each is a rationale, the mark, and one of them; `beginnings` [N] are what outputs begin
        with. `answers`: what of an output is its answer, whose log-probability is then told.

        Batches go by length, and each rank draws every `ranks.size`-th; the result is in the order
        of the prompts and a function of the seed, whatever their number. `check` runs before each
        of them.
        """
        begun_lengths = [len(target.text) for target in beginnings] or [0] * len(prompts)
        lengths = [len(p) + begun for p, begun in zip(prompts, begun_lengths, strict=True)]
        groups = split_evenly(
            sorted(range(len(prompts)), key=lambda i: (lengths[i], i)),
            limit=batch_size or SAMPLING_ROWS.get(self.device.type, 64),
            multiple=CPU_BATCHES if self.device.type == "cpu" else 1,
        )
        settings = generation.make_settings(
            min(max_new_tokens, self.max_output_tokens), temperature, top_p
        )
        flops, tokens = self.flops, self.tokens
        form = OutputForm(
            answers=self.make_answer_form(options) if options else None,
            mark=self._tokenize_mark() if answers == "marked" else (),
            tells_answers=answers != "untold",
        )

        def draw_own() -> list[Any]:
            outputs: list[Any] = []
            with self._evaluating(bf16=self.bf16), torch.random.fork_rng():
                for number in self.ranks.select_own(range(len(groups))):
                    check()
                    torch.manual_seed(seed + number)
                    asked = [prompts[i] for i in groups[number]]
                    begun = [beginnings[i] for i in groups[number]] if beginnings else []
                    own_form = replace(
                        form,
                        beginnings=[self.tokenize_parts(b)[0] for b in begun],
                        begun=bool(begun) and self.output_continues_prompt,
                    )
                    outputs += map(astuple, self._generate_batch(asked, settings, own_form))
            return [outputs, self.flops - flops, self.tokens - tokens]

        parts = self.ranks.gather(draw_own)
        self.flops = flops + sum(own_flops for _, own_flops, _ in parts)
        self.tokens = tokens + sum(own_tokens for _, _, own_tokens in parts)
        outputs: dict[int, GeneratedText] = {}
        for rank, (own, _, _) in enumerate(parts):
            places = [i for group in groups[rank :: len(parts)] for i in group]
            outputs |= zip(places, (GeneratedText(*output) for output in own), strict=True)
        return [outputs[i] for i in range(len(prompts))]

    def _generate_batch(
        self, prompts: list[str], settings: Mapping[str, Any], form: OutputForm
    ) -> list[GeneratedText]:
        read = self.tokenize_prompts(prompts)
        if form.begun:
            read = [[*ids, *begun] for ids, begun in zip(read, form.beginnings, strict=True)]
        n_begun = sum(map(len, form.beginnings)) if form.begun else 0
        ids, mask = self._pad_prompts(read)
        start = self._completion_start(ids)
        rows = generation.generate(self.model, ids, mask, settings, start=start, form=form)
        self._count_work(self._encoder_parameter_count, int(mask.sum()))
        n_written = sum(len(row.tokens) for row in rows) - n_begun
        self._count_work(self._decoder_parameter_count, n_written)
        texts = self.tokenizer.batch_decode([row.tokens for row in rows], skip_special_tokens=True)
        return [
            GeneratedText(
                text.strip(), row.is_cut, row.entropy, row.answer_logprob, len(row.tokens)
            )
            for text, row in zip(texts, rows, strict=True)
        ]

    def _completion_start(self, ids: Tensor) -> int:
        return 1
