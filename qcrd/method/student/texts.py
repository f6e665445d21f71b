"""What a student reads and writes, as tokens within its limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from cachetools import LRUCache
from transformers import PreTrainedTokenizerBase

from qcrd.method.student.control_tokens import ControlTokenSplitter
from qcrd.method.student.targets import Target

MAX_KNOWN_TEXTS = 1 << 16
"""Prompts, and targets, whose tokens are kept: a text is asked for again in every pass."""
MAX_ADDED_TOKENS = 4
"""Control tokens that a tokenizer puts around a text, and a piece for its leading space."""


class StudentTexts(ABC):
    """Prompts and targets of a student by its tokenizer. A target's text has at most
    `max_target_tokens`, an answer `max_answer_tokens`, and both together `max_output_tokens`."""

    suffix = ""
    """Text that ends every prompt, so that the output can follow in the same sequence."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_question_tokens: int,
        max_target_tokens: int,
        max_answer_tokens: int,
        max_output_tokens: int | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_question_tokens = max_question_tokens
        self.max_target_tokens = max_target_tokens
        self.max_answer_tokens = max_answer_tokens or max_target_tokens
        self.max_output_tokens = max_output_tokens or max_target_tokens + max_answer_tokens
        self._control_tokens = ControlTokenSplitter(tokenizer.all_special_tokens)
        self._known_prompts: LRUCache[str, list[int]] = LRUCache(MAX_KNOWN_TEXTS)
        self._known_targets: LRUCache[Target, tuple[list[int], list[int]]] = LRUCache(
            MAX_KNOWN_TEXTS
        )

    @abstractmethod
    def _tokenize_text(self, text: str) -> list[int]:
        """Tokens of a part of an output, without what frames an output."""

    @abstractmethod
    def _target_frame(self) -> tuple[list[int], list[int]]:
        """The tokens before an output's text, and those that end it."""

    def tokenize_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Tokens of each prompt, which is tokenised once however often it is asked for."""
        known = {prompt: self._known_prompts.get(prompt) for prompt in prompts}
        if new := [prompt for prompt, ids in known.items() if ids is None]:
            found = dict(zip(new, self._tokenize_new_prompts(new), strict=True))
            self._known_prompts.update(found)
            known |= found
        return [known[prompt] or [] for prompt in prompts]

    def _tokenize_new_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(
            [self._control_tokens.split(prompt + self.suffix) for prompt in prompts],
            truncation=True,
            max_length=self.max_question_tokens,
        ).input_ids
        return ids

    def is_cut(self, prompt: str) -> bool:
        """Whether the prompt is longer than `max_question_tokens`, so that a part of it is not
        read."""
        text = self._control_tokens.split(prompt + self.suffix)
        # No token is shorter than a byte, and few are added around them.
        if len(text.encode()) + MAX_ADDED_TOKENS <= self.max_question_tokens:
            return False
        return len(self.tokenizer(text).input_ids) > self.max_question_tokens

    @property
    def filler(self) -> int:
        """A token for a row that stands for none."""
        return int(self.tokenizer.eos_token_id or 0)

    def tokenize_target(self, target: Target) -> list[int]:
        """The tokens of `target` and, where it is whole, of its end; a control token in a text is
        text. The limits hold an output's frame too; they cut a `text`, and never an `answer`."""
        before, answer = self.tokenize_parts(target)
        return before + answer

    def tokenize_parts(self, target: Target) -> tuple[list[int], list[int]]:
        """The tokens before a target's answer, and from there to its end, found once per target."""
        if (parts := self._known_targets.get(target)) is None:
            parts = self._known_targets[target] = self._tokenize_new_target(target)
        return parts

    def _tokenize_new_target(self, target: Target) -> tuple[list[int], list[int]]:
        begin, end = self._target_frame()
        text = self._tokenize_text(self._control_tokens.split(target.text)) if target.text else []
        answer = (
            self._tokenize_text(self._control_tokens.split(target.answer)) if target.answer else []
        )
        frame = len(begin) + len(end)
        room = min(self.max_target_tokens, self.max_output_tokens - len(answer)) - frame
        if answer:
            return [*begin, *text[: max(0, room)]], [*answer, *end]
        # Whatever is cut has no end: nothing is learned of where it would have been.
        if target.is_cut or len(text) > room:
            return [*begin, *text][: self.max_target_tokens], []
        return [*begin, *text], [*end]
