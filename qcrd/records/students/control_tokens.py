"""Texts of data that hold a tokenizer's control tokens, read as the texts that they are."""

from __future__ import annotations

import re
from collections.abc import Iterable


def list_splittable(control_tokens: Iterable[str]) -> list[str]:
    """The longest first; a token of one character cannot be split."""
    return sorted((t for t in control_tokens if len(t.strip()) > 1), key=len, reverse=True)


class ControlTokenSplitter:
    """Puts a space behind the first character of each control token in a text, `< /s>`: no
    tokenizer reads that as the end of the text. What a tokenizer's own options do differs by its
    kind: a unigram one finds control tokens in its vocabulary all the same."""

    def __init__(self, control_tokens: Iterable[str]) -> None:
        tokens = list_splittable(control_tokens)
        self._pattern = re.compile("|".join(map(re.escape, tokens))) if tokens else None

    def split(self, text: str) -> str:
        """The text without control tokens; itself where it has none."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
