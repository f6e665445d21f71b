"""What a student reads and writes, as tokens within its limits."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence

from cachetools import LRUCache
from transformers import PreTrainedTokenizerBase

from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.chat_form import ChatForm
from qcrd.method.student.targets import Target
from qcrd.records.students.answer_form import AnswerForm
from qcrd.records.students.control_tokens import ControlTokenSplitter

MAX_KNOWN_TEXTS = 1 << 16
"""Prompts, and targets, whose tokens are kept: a text is asked for again in every pass."""
TASK_PREFIXES = (PREDICT_PREFIX, EXPLAIN_PREFIX)
MAX_ADDED_TOKENS = 4
"""Control tokens that a tokenizer puts around a text, and a piece for its leading space."""


def list_control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """What the tokenizer reads as one token of its own: those with a name, and others that it has
    for turns of a chat."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(sorted({*tokenizer.all_special_tokens, *added}))


class StudentTexts(ABC):
    """Prompts and targets of a student by its tokenizer. A target's text has at most
    `max_target_tokens`, an answer `max_answer_tokens`, and both together `max_output_tokens`."""

    suffix = ""
    """Text that ends every prompt, so that the output can follow in the same sequence."""
    chat: ChatForm | None = None
    """What stands around every prompt of a student that is asked as its base's chats are."""

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
        self.control_tokens = list_control_tokens(tokenizer)
        self._control_tokens = ControlTokenSplitter(self.control_tokens)
        self._known_prompts: LRUCache[str, list[int]] = LRUCache(MAX_KNOWN_TEXTS)
        self._known_targets: LRUCache[Target, tuple[list[int], list[int]]] = LRUCache(
            MAX_KNOWN_TEXTS
        )

    @abstractmethod
    def _tokenize_text(self, text: str, *, is_first: bool = True) -> list[int]:
        """Tokens of a part of an output, its first one or one behind others, without what frames an
        output."""

    @abstractmethod
    def _tokenize_mark(self) -> list[int]:
        """Tokens of the mark between a rationale and the answer behind it."""

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
        framed = [self.frame_prompt(prompt) for prompt in prompts]
        rows: list[list[int]] = self.tokenizer(framed).input_ids
        return [
            ids if len(ids) <= self.max_question_tokens else self._cut_question(ids, prompt)
            for ids, prompt in zip(rows, prompts, strict=True)
        ]

    def _cut_question(self, ids: list[int], prompt: str) -> list[int]:
        """The tokens within the limit: what says what is asked for stays, and the question's end,
        with its options where it has some; what stands between is cut."""
        prefix = next((each for each in TASK_PREFIXES if prompt.startswith(each)), "")
        before = "" if self.chat is None else self.chat.before
        start = self.tokenizer(before + prefix.rstrip()).input_ids
        same = (a == b for a, b in zip(ids, start, strict=False))
        kept = sum(itertools.takewhile(bool, same))
        # A limit that has no room for more leaves the beginning out.
        kept = kept if 2 * kept < self.max_question_tokens else 0
        return ids[:kept] + ids[len(ids) - self.max_question_tokens + kept :]

    def frame_prompt(self, prompt: str) -> str:
        """The text that is tokenised for a prompt: a turn of the chat, or with its suffix."""
        text = self._control_tokens.split(prompt)
        if self.chat is not None:
            return self.chat.before + text + self.chat.after
        return text + self.suffix

    def is_cut(self, prompt: str) -> bool:
        """Whether the prompt is longer than `max_question_tokens`, so that a part of it is not
        read."""
        text = self.frame_prompt(prompt)
        # No token is shorter than a byte, and few are added around them.
        if len(text.encode()) + MAX_ADDED_TOKENS <= self.max_question_tokens:
            return False
        return len(self.tokenizer(text).input_ids) > self.max_question_tokens

    def find_frame(self) -> tuple[str, str]:
        """The control tokens that the tokenizer puts before and behind a prompt, as text."""
        framed: list[int] = self.tokenizer("a").input_ids
        bare: list[int] = self.tokenizer("a", add_special_tokens=False).input_ids
        for place in range(len(framed) - len(bare) + 1):
            if framed[place : place + len(bare)] == bare:
                parts = (framed[:place], framed[place + len(bare) :])
                begin, end = ("".join(self.tokenizer.convert_ids_to_tokens(p)) for p in parts)
                return begin, end
        return "", ""

    def make_mark(self) -> tuple[int, ...]:
        """The tokens between a rationale and the answer behind it."""
        return tuple(self._tokenize_mark())

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """What ends an output."""
        return tuple(self._target_frame()[1])

    def make_answer_form(self, options: Sequence[str]) -> AnswerForm:
        """What an output may be that answers one of `options` behind its rationale."""
        marked = [self.tokenize_parts(Target(answer=option, marked=True)) for option in options]
        return AnswerForm(
            mark=tuple(self._tokenize_mark()),
            options=tuple(tuple(answer) for _, answer in marked),
            ends=self.end_token_ids,
            max_rationale_tokens=self.max_target_tokens,
        )

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
        mark = self._tokenize_mark() if target.marked else []
        answer_text = self._control_tokens.split(target.answer)
        is_first = not (text or mark)
        answer = self._tokenize_text(answer_text, is_first=is_first) if answer_text else []
        frame = len(begin) + len(end) + len(mark)
        room = min(self.max_target_tokens, self.max_output_tokens - len(answer)) - frame
        if answer:
            return [*begin, *text[: max(0, room)], *mark], [*answer, *end]
        if mark:
            return [*begin, *text[: max(0, room)], *mark], []
        # Whatever is cut has no end: nothing is learned of where it would have been.
        if target.is_cut or len(text) > room:
            return [*begin, *text][: self.max_target_tokens], []
        return [*begin, *text], [*end]
