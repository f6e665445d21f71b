"""Outputs that run on: behind its answer a model that nothing stops makes up the next question, in
the form of the prompt that it was given.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

MIN_SHARE, MIN_OUTPUTS = 0.05, 3
"""Of the outputs, that have a mark at the beginning of a paragraph for it to count as repeated."""
MIN_ANSWERED_SHARE = 0.8
"""Of the outputs with that mark, that have an answer before it. A step's heading has none."""
MAX_EXAMINED = 2000
"""Outputs looked at: enough to see what repeats."""
PARAGRAPH, MARK_END = r"\n[^\S\n]*\n\s*[*_#>]{0,4}\s?", r"\s?\d{0,3}[*_]{0,2}[:\uff1a]"
PARAGRAPH_MARK = re.compile(rf"{PARAGRAPH}([^\W\d_][^:\n]{{0,39}}?){MARK_END}")
OWN_PARTS = re.compile(
    r"(?:final |the |my |correct )*(?:answer|explanation|reasoning|rationale|reason|justification"
    r"|solution|result|conclusion|note|check|verification|summary|therefore|thus|so|hence|step"
    r"|option|choice|proof|hint)s?\b",
    re.IGNORECASE,
)
"""Headings of an output's own parts, of which the one behind the answer may explain it."""


def find_next_question_mark(
    outputs: Sequence[str], has_answer: Callable[[int, str], bool]
) -> str | None:
    """The heading that a made-up next question begins with, such as `Premise`; None where none
    repeats. `has_answer` tells whether a text, the beginning of the output at that place, has one.
    """
    examined = outputs[:: max(1, len(outputs) // MAX_EXAMINED)]
    step = max(1, len(outputs) // MAX_EXAMINED)
    marks = Counter[str]()
    answered = Counter[str]()
    for place, output in enumerate(examined):
        # Of several the first: the others belong to the question that was made up.
        found = PARAGRAPH_MARK.search(output)
        if found is None or OWN_PARTS.match(found[1]):
            continue
        marks[found[1]] += 1
        answered[found[1]] += has_answer(place * step, output[: found.start()])
    for mark, count in marks.most_common(1):
        is_repeated = count >= max(MIN_OUTPUTS, MIN_SHARE * len(examined))
        if is_repeated and answered[mark] >= MIN_ANSWERED_SHARE * count:
            return mark
    return None


def cut_at_mark(output: str, mark: str) -> str:
    """What comes before the first paragraph that begins with the heading."""
    found = re.search(f"{PARAGRAPH}{re.escape(mark)}{MARK_END}", output)
    return output if found is None else output[: found.start()]


def cut_at_stop(output: str, stop: Sequence[str]) -> str:
    """What comes before the first of the `stop` sequences."""
    ends = [output.index(sequence) for sequence in stop if sequence in output]
    return output[: min(ends, default=len(output))]
