"""The part of an output that is the answer to its question: without thoughts, end tokens and turns
that a model made up.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Where a model that was not stopped continues with a made-up question.
# Matches white space from its start only: a megabyte of it is scanned once, not per position.
NEXT_TURN = re.compile(
    r"(?<!\s)[^\S\n]*+\n\s*+[*_#>]{0,4}[^\S\n]*"
    r"(?:(?:Q|Question|Problem|Example|Next question|New question|Frage|Pregunta|Pergunta|Domanda"
    r"|Vraag|Вопрос|问题"
    r"|問題|問|质问|質問|질문|문제)\s?\d{0,3}\s?[*_]{0,2}[:：]"
    r"|(?:Human|User|Assistant|System|Instruction|Student|Input)\s?[*_]{0,2}:"
    r"|#{1,4}\s*(?:Instruction|Question|Input|Human|User|Problem)\b)"
)
END_TOKEN = re.compile(
    r"<[|\uff5c][\w\u2581]{1,40}[|\uff5c]>|</?s>|<eos>|<pad>|<(?:end|start)_of_turn>|<EOT>"
    r"|\[/?INST\]|\[EOS\]"
)
# The documented form from its beginning again: a next answer, whose question was left out.
NEXT_EXPLANATION = re.compile(r"(?<!\s)\s++<\s?Explanation\s?>\s?:", re.IGNORECASE)
ANSWER_TAG = re.compile(r"<\s?Answer\s?>\s?:", re.IGNORECASE)
LEADING_TOKENS = re.compile(
    r"(?:\s|<s>|<bos>|<\|begin_of_text\|>|<\|im_start\|>\s*assistant\b|<\|assistant\|>"
    r"|<start_of_turn>\s*model\b|Assistant:)++"
)
THOUGHT_NAMES = "think|thinking|thought|thoughts|reasoning|scratchpad|reflection"
THOUGHT_START = re.compile(rf"<({THOUGHT_NAMES})>|\[THINK\]|◁think▷", re.IGNORECASE)
THOUGHT_END = re.compile(rf"</({THOUGHT_NAMES})>|\[/THINK\]|◁/think▷", re.IGNORECASE)


class Turn(NamedTuple):
    """Offsets in the output: what was thought, and what was said after it."""

    thought_start: int
    thought_end: int
    start: int
    end: int


def find_turn(text: str) -> Turn | None:
    """The output's own turn; None for one that was cut off while it was thinking."""
    leading = LEADING_TOKENS.match(text)
    begin = leading.end() if leading is not None else 0
    thought = (begin, begin)
    start = begin
    *_, closing = (None, *THOUGHT_END.finditer(text, begin))
    opening = THOUGHT_START.search(text, begin)
    if closing is not None:
        opened = opening is not None and opening.start() < closing.start()
        thought_start = opening.end() if opening is not None and opened else begin
        thought, start = (thought_start, closing.start()), closing.end()
        if opening is not None and opened and text[begin : opening.start()].strip():
            return None  # words before a thought: which of them belongs to the answer is unknown
    if THOUGHT_START.search(text, start) is not None:
        return None
    return Turn(*thought, start, _find_end(text, start))


def _find_end(text: str, start: int) -> int:
    """Where the next turn begins; what comes before anything is said does not end it."""
    start += len(text[start:]) - len(text[start:].lstrip())
    ends = [len(text)]
    for pattern in (NEXT_TURN, END_TOKEN):
        found = pattern.search(text, start)
        if found is not None:
            ends.append(found.start())
    answer = ANSWER_TAG.search(text, start)
    again = NEXT_EXPLANATION.search(text, answer.end()) if answer is not None else None
    if again is not None and ANSWER_TAG.search(text, again.end()) is not None:
        ends.append(again.start())
    return min(ends)
