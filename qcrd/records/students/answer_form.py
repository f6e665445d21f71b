"""The form of an output that answers behind its rationale, held to options token by token.

One rule for whoever writes such an output: the evaluation, the server of students, the command
line. So a student is served as it was measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ConfigDict

from qcrd.records.base import Record


class AnswerForm(Record):
    """The tokens of the mark, of each option with its end, and those that end an output. A
    rationale has room for `max_rationale_tokens`, the mark among them; then the mark is said for
    the student."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mark: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    ends: tuple[int, ...]
    max_rationale_tokens: int

    def find_allowed(self, said: Sequence[int]) -> set[int]:
        """The tokens that may follow the output's tokens so far; none of them where all may but the
        end."""
        place = _find(said, self.mark)
        if place is not None:
            answered = tuple(said[place + len(self.mark) :])
            width = len(answered)
            longer = (option for option in self.options if len(option) > width)
            # A whole option has ended the output: what comes then is padding.
            return {o[width] for o in longer if o[:width] == answered} or set(self.ends)
        if len(said) < self.max_rationale_tokens - len(self.mark):
            return set()
        return {self.mark[_count_overlap(said, self.mark)]}


def _find(said: Sequence[int], mark: Sequence[int]) -> int | None:
    """The first place of `mark`."""
    width = len(mark)
    starts = range(len(said) - width + 1)
    return next((i for i in starts if tuple(said[i : i + width]) == tuple(mark)), None)


def _count_overlap(said: Sequence[int], mark: Sequence[int]) -> int:
    """How much of the mark's beginning `said` ends in."""
    return max(n for n in range(len(mark)) if not n or tuple(said[-n:]) == tuple(mark[:n]))
