"""Characters and wrappings of an answer: what is equal to the eye is made equal, the rest is kept.

NFKC alone would not do: it makes `5²` into 52 and `1½` into 11/2.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

SAME_CHARACTER = frozenset(
    f"<{form}>" for form in "wide narrow small noBreak compat initial medial final isolated".split()
)
"""Unicode's decompositions between forms of one character; `<super>`, `<sub>`, `<fraction>`,
`<circle>`, `<square>` and `<font>` name other characters."""

APOSTROPHES = {ord(mark): "'" for mark in "\u2018\u2019\u02bc\u201b"}
CLOSING = " \t\n.,;:!?。！？，、；：．｡،؛؟।…¡¿"
"""Punctuation around a text that is no part of it, of several scripts."""

QUOTES: tuple[tuple[str, str], ...] = (
    *(('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u201e", "\u201c"), ("\u201e", "\u201d")),
    *(("\u201d", "\u201d"), ("«", "»"), ("»", "«"), ("‹", "›"), ("「", "」"), ("『", "』")),
    *(("《", "》"), ("\u201a", "'"), ("｢", "｣")),
)
MARKDOWN: tuple[tuple[str, str], ...] = tuple(
    (mark, mark) for mark in ("***", "**", "__", "*", "_", "```", "`")
)
FORMULAS: tuple[tuple[str, str], ...] = (
    *(("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")),
)
BRACKETS: tuple[tuple[str, str], ...] = (("(", ")"), ("[", "]"), ("【", "】"))
MAX_WRAPPINGS = 8

# Tokenizers that split words put spaces around punctuation: `t - shirt`.
SPLIT_PUNCTUATION = re.compile(r"(?:(?<!\s)\s++)?([^\w\s])\s*")
LEADING_ARTICLE = re.compile(r"^(?:the\s+|an?\s+(?=\S{2}))")  # `A B` are two letters


def unify(text: str) -> str:
    """The text in NFC, forms of one character as that character, nothing invisible in it."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", "".join(map(_unify_one, text))).translate(APOSTROPHES)


def _unify_one(character: str) -> str:
    if unicodedata.category(character) == "Cf":  # of no width, or of direction
        return ""
    form = unicodedata.decomposition(character).partition(" ")[0]
    if form not in SAME_CHARACTER or unicodedata.category(character) == "Sk":
        return character
    return unicodedata.normalize("NFKC", character)


def unwrap(
    text: str, pairs: Iterable[tuple[str, str]], closing: str = " \t\n", opening: str = " \t\n"
) -> str:
    """The text without `closing` punctuation and without pairs that stand around all of it."""
    pairs = tuple(pairs)
    for _ in range(MAX_WRAPPINGS):
        inner = text.lstrip(opening).rstrip(closing)
        for left, right in pairs:
            if _is_wrapped(inner, left, right):
                inner = inner[len(left) : -len(right)]
                break
        if inner == text:
            break
        text = inner
    return text


def _is_wrapped(text: str, left: str, right: str) -> bool:
    """Whether one pair holds the whole: `"Hamlet" and "Othello"` are two."""
    if len(text) <= len(left) + len(right) or not (text.startswith(left) and text.endswith(right)):
        return False
    inner = text[len(left) : -len(right)]
    # Marks of marks alone are a text: a rating of `***`.
    return left not in inner and right not in inner and any(c.isalnum() for c in inner)


def fold(text: str) -> str:
    """The text without case, quotes, emphasis, closing punctuation and a leading article."""
    bare = unwrap(unify(text).casefold(), (*QUOTES, *MARKDOWN), closing=CLOSING, opening=CLOSING)
    return " ".join(LEADING_ARTICLE.sub("", bare).split())


def fold_option(text: str) -> str:
    """`fold` of an option, which may be written with spaces around its punctuation."""
    return fold(SPLIT_PUNCTUATION.sub(r"\1", unify(text)))
