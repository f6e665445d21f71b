"""Options: the one that a text names by its text, its letter or its place; None for two or none.

Texts are compared exactly first, then folded (`characters.fold_option`): `C`, `C++` and `A*` stay
apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from string import ascii_lowercase
from typing import NamedTuple

from qcrd.method.answer_reading import latex
from qcrd.method.answer_reading.characters import (
    BRACKETS,
    FORMULAS,
    MARKDOWN,
    QUOTES,
    fold_option,
    unify,
    unwrap,
)
from qcrd.method.answer_reading.option_marks import find_place

LEAD = re.compile(
    r"^(?:it is|it's|this is|that is)\s+(?=\S\S)"
    r"|^(?:(?:the|is|an?)\s+)?(?:(?:correct|right|best)\s+)?(?:option|choice|letter|alternative"
    r"|label|category|class|answer|opción|opcion|opção|opzione|réponse|antwort|вариант|ответ"
    r"|选项|選項|選択肢)\s*(?:is\b|[:：])?\s*(?=\S)",
    re.IGNORECASE,
)
BULLET = re.compile(r"^[-*•]\s+(?=\w)")
LETTER = r"(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|【\s*([A-Za-z])\s*】|([A-Za-z]))"
LETTER_ALONE = re.compile(LETTER + r"\s*[).:,、]?$")
LETTER_AND_TEXT = re.compile(
    r"(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|【\s*([A-Za-z])\s*】|([A-Za-z])\s*(?:[):、]"
    r"|\.(?=\s)))"
    r"\s*[-:]?\s*(.+)$"
    r"|([A-Z])\s+[-\u2013\u2014=]\s+(.+)$"
)
DOUBLE = re.compile(r"(?:[(\[【]\s*([A-Za-z]{2})\s*[)\]】]|([A-Za-z]{2})(?=[).:]?$))[).:]?\s*(.*)$")
PLACE = re.compile(r"#?\s?(\d{1,3})\.?$")
PLACE_AND_TEXT = re.compile(r"\(?(\d{1,3})[).:]\s+(.+)$")
POLITE_ENDING = re.compile(r"(?:です|である|だ|입니다|이다|है)$")
WRAPPINGS = (*MARKDOWN, *QUOTES, *FORMULAS)


class OptionIndex(NamedTuple):
    """Options by their exact and by their folded texts, in order; and whether all are letters."""

    options: tuple[str, ...]
    by_exact: Mapping[str, str]
    by_folded: Mapping[str, frozenset[str]]
    are_letters: bool
    have_digits: bool


@lru_cache(maxsize=1024)
def index_options(options: tuple[str, ...]) -> OptionIndex:
    """Once for all answers to a task: it may have thousands of labels."""
    groups: dict[str, set[str]] = {}
    for option in options:
        groups.setdefault(fold_option(option), set()).add(option)
    return OptionIndex(
        options,
        {unify(option.strip()): option for option in options},
        {text: frozenset(group) for text, group in groups.items()},
        all(len(text) == 1 and text.isalpha() and text.isascii() for text in groups),
        any(character.isdecimal() for option in options for character in option),
    )


def find_same_labels(labels: tuple[str, ...]) -> tuple[str, str] | None:
    """Two labels that are one answer when case, articles, quotes and punctuation do not count."""
    first: dict[str, str] = {}
    for label in labels:
        other = first.setdefault(fold_option(label), label)
        if other != label:
            return other, label
    return None


def read_option(text: str, options: tuple[str, ...], *, by_letter: bool) -> str | None:
    """The option that the whole text names. `by_letter`: options are listed as (a), (b), …"""
    index = index_options(options)
    exact = index.by_exact.get(unify(text.strip()))
    if exact is not None:
        return exact
    bare = _lay_bare(unify(text))
    if bare is None or bare.rstrip("*_\"' ").endswith(("?", "？")):
        return None
    without_lead = LEAD.sub("", bare)
    for candidate in dict.fromkeys((bare, without_lead, POLITE_ENDING.sub("", without_lead))):
        named = (
            _read_text(candidate, index)
            or _read_letter(candidate, index, by_letter=by_letter)
            or (_read_double(candidate, index) if by_letter else None)
        )
        if named is not None:
            return named
    return _read_place(without_lead, index, announced=without_lead != bare) if by_letter else None


def _lay_bare(text: str) -> str | None:
    for _ in range(4):
        inner = unwrap(text, WRAPPINGS, closing=" \t\n.,;:。，、،", opening=" \t\n¡¿")
        inner = latex.unbox(inner)
        if "\\" in inner:
            plain = latex.to_plain(inner)
            if plain is None:
                return None
            inner = plain.strip()
        if inner == text:
            break
        text = inner
    return BULLET.sub("", re.sub(r"\s+", " ", text))


def _read_text(text: str, index: OptionIndex) -> str | None:
    if (exact := index.by_exact.get(unify(text.strip()))) is not None:
        return exact
    for candidate in (text, unwrap(text, BRACKETS)):
        folded = fold_option(candidate)
        group = index.by_folded.get(folded, frozenset()) if folded else frozenset()
        if len(group) == 1:
            return next(iter(group))
    return None


def _read_letter(text: str, index: OptionIndex, *, by_letter: bool) -> str | None:
    if (alone := LETTER_ALONE.match(text)) is not None:
        return _get_by_letter(_get_group(alone), index, by_letter=by_letter)
    if (found := LETTER_AND_TEXT.match(text)) is None:
        return None
    letter, rest = _get_group(found), (found[5] or found[7]).strip()
    by_rest = _read_text(rest, index)
    if index.are_letters:
        named = _get_by_letter(letter, index, by_letter=by_letter)
        return named if not mention(rest, index) - {named} else None
    if by_rest is None or not by_letter:
        return by_rest
    return by_rest if _get_by_letter(letter, index, by_letter=True) == by_rest else None


def _read_double(text: str, index: OptionIndex) -> str | None:
    """`(ad)`, `ad.`, `(ad) a pier`: of more options than there are letters."""
    found = DOUBLE.match(text)
    if found is None or len(index.options) <= len(ascii_lowercase):
        return None
    place = find_place(found[1] or found[2])
    named = index.options[place] if place < len(index.options) else None
    rest = (found[3] or "").strip()
    return named if not rest or _read_text(rest, index) == named else None


def _get_group(found: re.Match[str]) -> str:
    groups = found.groups()
    return next(group for group in groups if group is not None and len(group) == 1)


def _get_by_letter(letter: str, index: OptionIndex, *, by_letter: bool) -> str | None:
    """The option with that letter: labels that are letters themselves go by their own."""
    group = index.by_folded.get(letter.casefold(), frozenset())
    if group or index.are_letters or not by_letter:
        return next(iter(group)) if len(group) == 1 else None
    position = ascii_lowercase.index(letter.casefold())
    return index.options[position] if position < len(index.options) else None


def _read_place(text: str, index: OptionIndex, *, announced: bool) -> str | None:
    """`Option 2`, `2. bridge`: nobody counts options that are numbers themselves."""
    if announced and not index.have_digits and (found := PLACE.match(text)) is not None:
        return _get_by_place(int(found[1]), index)
    if (found := PLACE_AND_TEXT.match(text)) is not None:
        named = _read_text(found[2], index)
        return named if named == _get_by_place(int(found[1]), index) else None
    return None


def _get_by_place(place: int, index: OptionIndex) -> str | None:
    return index.options[place - 1] if 0 < place <= len(index.options) else None


def mention(text: str, index: OptionIndex) -> set[str]:
    """The options that the text names anywhere: letters in capitals or in brackets."""
    folded, found = unify(text).casefold(), set[str]()
    for option in index.options:
        name = fold_option(option)
        if len(name) == 1 and name.isalpha() and name.isascii():
            pattern = rf"(?<!\w){name.upper()}(?![\w'+#*])|\([{name}{name.upper()}]\)"
            if re.search(pattern, text):
                found.add(option)
        elif name and name in folded and _stands_alone(name, folded):
            found.add(option)
    return found


def mention_letters(text: str, index: OptionIndex) -> set[str]:
    """The listed options that the text names by a letter in brackets or a lone capital."""
    letters = re.findall(r"\(([A-Za-z])\)|(?<![\w'])([B-HJ-Z])(?![\w'.+#*])", text)
    marks = [a or b for a, b in letters]
    if len(index.options) > len(ascii_lowercase):
        marks += re.findall(r"\(([A-Za-z]{2})\)", text)
    places = map(find_place, marks)
    return {index.options[place] for place in places if place < len(index.options)}


def _stands_alone(name: str, text: str) -> bool:
    """Whether the name is there as words; scripts without spaces have no words to part."""
    if not name[0].isascii() and not name[-1].isascii():
        return True
    left = r"(?<!\w)" if name[0].isalnum() else ""
    right = r"(?!\w)" if name[-1].isalnum() else ""
    return re.search(f"{left}{re.escape(name)}{right}", text) is not None
