"""Guess of a task's answers: numbers, options, a few labels, formulas or texts."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

NUMBER = re.compile(r"[-+\u2212(]?\s?[$€£]?[\d(][\d\s,.()/*+\u2212%-]*")
FORMULA = re.compile(r"\\[a-z]+|\$[^$]+\$")
MAX_LABELS, MAX_LABEL_CHARS = 100, 60
MIN_PER_LABEL = 3
"""Records of each label on average, for few different answers to be labels."""
MAX_CLASS_NUMBERS, MIN_PER_CLASS_NUMBER = 20, 10
"""Whole numbers that are few and repeat are names of classes."""
SURE_SHARE = 0.95
MAX_DISTINCT = 2000
CLASS_OF_NONE, WORD_OF_NONE, MAX_NONE_SHARE = "-1", "-", 0.05
"""What stands in place of a label that nobody agreed on, of classes and in SNLI's own files."""


class AnswerGuess:
    """Grows with each record's label."""

    def __init__(self) -> None:
        self.count = 0
        self._values: Counter[str] = Counter()
        self._numbers = self._formulas = self._whole = self._places = 0
        self.longest = 0
        """Characters of the longest label."""

    def add(self, label: Any) -> None:
        if label is None or label == "":
            return
        self.count += 1
        text = _spell(label)
        self.longest = max(self.longest, len(text))
        if len(self._values) < MAX_DISTINCT or text in self._values:
            self._values[text] += 1
        self._numbers += NUMBER.fullmatch(text) is not None
        self._whole += isinstance(label, int) and not isinstance(label, bool)
        self._places += text.isdecimal()
        self._formulas += FORMULA.search(text) is not None

    def get_kind(self, *, has_choices: bool) -> str:
        if has_choices:
            return "choice"
        sure = SURE_SHARE * self.count
        if self._are_labels(MAX_CLASS_NUMBERS, MIN_PER_CLASS_NUMBER) and self._whole >= sure:
            return "label"
        if self.count and self._numbers >= sure:
            return "number"
        if self._are_labels(MAX_LABELS, MIN_PER_LABEL):
            return "label"
        return "math" if self._formulas > 0.2 * self.count else "text"

    def take_unlabelled(self) -> str | None:
        """The value that says that a record has no label, which is then none of the labels: a
        rare -1 beside whole numbers that name classes, a hyphen beside words."""
        others = [value for value in self._values if value not in (CLASS_OF_NONE, WORD_OF_NONE)]
        if not 2 <= len(others) <= MAX_CLASS_NUMBERS:
            return None
        if all(other.isdecimal() for other in others):
            found = self._values[CLASS_OF_NONE]
            if not 0 < found <= MAX_NONE_SHARE * self.count:  # three classes may be -1, 0 and 1
                return None
            self._numbers -= found
            self._whole = max(0, self._whole - found)
            value = CLASS_OF_NONE
        elif self._values[WORD_OF_NONE]:
            value = WORD_OF_NONE
        else:
            return None
        self.count -= self._values.pop(value)
        return value

    @property
    def are_places(self) -> bool:
        """Whether they are texts of places from 0, which a reader would count from 1."""
        return self._places == self.count > self._whole and "0" in self._values

    def _are_labels(self, most: int, per_label: int) -> bool:
        return (
            2 <= len(self._values) <= most
            and self.count >= per_label * len(self._values)
            and max(map(len, self._values)) <= MAX_LABEL_CHARS
        )

    @property
    def labels(self) -> list[str]:
        """Each once: spellings that differ in case only are one label, the commonest of them."""
        folded = dict[str, str]()
        for text, _ in self._values.most_common():
            folded.setdefault(text.casefold(), text)
        return sorted(folded.values())


def _spell(label: Any) -> str:
    """As the server spells labels that are no texts."""
    if isinstance(label, bool):
        return "true" if label else "false"
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    if isinstance(label, list):
        return ", ".join(map(_spell, label))
    return str(label).strip()
