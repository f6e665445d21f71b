"""The published student that an export is made of and compared with, on transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from qcrd.records.students.prompt_format import PromptFormat
from qcrd.runtime.storage.prompt_formats import load_prompt_format


@dataclass(frozen=True)
class GreedyOutput:
    """Tokens that a student says, the end with them where it came to one. `margins`: of each, by
    how much its logit is above the next one."""

    tokens: tuple[int, ...]
    margins: tuple[float, ...] = ()


class OriginalStudent:
    """The student of a folder in fp32, which says what it says freely: no runtime that it goes to
    holds an answer to the task's labels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prompt_format: PromptFormat = load_prompt_format(folder)
        self.config: Any = transformers.AutoConfig.from_pretrained(folder)
        model_class: Any = (
            transformers.AutoModelForSeq2SeqLM
            if self.config.is_encoder_decoder
            else transformers.AutoModelForCausalLM
        )
        self.model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)

    @property
    def is_encoder_decoder(self) -> bool:
        return bool(self.config.is_encoder_decoder)

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end what it says, the one that it learned to end with first."""
        named = self.model.generation_config.eos_token_id
        ends: list[int] = named if isinstance(named, list) else [] if named is None else [named]
        own = self.tokenizer.eos_token_id
        return tuple(sorted(ends, key=lambda end: end != own))

    def tokenize(self, question: str) -> list[int]:
        """The prompt that asks `question`."""
        prompt = self.prompt_format.format_prompt(self.prompt_format.predict, question)
        ids: list[int] = self.tokenizer(prompt, truncation=True).input_ids
        return ids

    def generate(self, prompt: Sequence[int]) -> GreedyOutput:
        """Its greedy output behind a prompt's tokens."""
        return self.generate_by(self.model, prompt)

    @torch.no_grad()
    def generate_by(
        self, model: Any, prompt: Sequence[int], said: Sequence[int] = ()
    ) -> GreedyOutput:
        """That of another model which is to be the same student, behind what it has `said`."""
        if self.is_encoder_decoder:
            begun = [self.model.generation_config.decoder_start_token_id, *said]
            ids, more = torch.tensor([list(prompt)]), {"decoder_input_ids": torch.tensor([begun])}
        else:
            begun = [*prompt, *said]
            ids, more = torch.tensor([begun]), {}
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **more,
            max_new_tokens=self.prompt_format.max_new_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        best = [step[0].float().topk(2).values for step in made.logits]
        return GreedyOutput(
            tuple(made.sequences[0, len(begun) :].tolist()),
            tuple(float(first - second) for first, second in best),
        )

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text.strip()

    def read_answer(self, tokens: Sequence[int]) -> str:
        """The answer in an output's tokens."""
        return self.prompt_format.split_output(self.decode(tokens))[1]
