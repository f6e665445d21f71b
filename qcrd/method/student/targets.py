"""Targets: what a student learns to say, and which part of it a limit may cut."""

from __future__ import annotations

from dataclasses import dataclass

from qcrd.records.students.prompt_format import JOINED_ANSWER_PREFIX


@dataclass(frozen=True)
class Target:
    """An output to learn: `text`, cut where the student's limit is, and then `answer`, which is
    never cut. `is_cut`: the text broke off when it was made, so that no end is learned. `marked`:
    the answer's mark stands behind the text and belongs to it, with an answer or without."""

    text: str = ""
    answer: str = ""
    is_cut: bool = False
    marked: bool = False


def reasoned_target(rationale: str, answer: str = "") -> Target:
    """What a reasoning student says: a rationale with the answer's mark, and then the answer."""
    return Target(rationale, answer=answer, marked=True)


def joined_target(rationale: str, label: str) -> Target:
    """What a single-task student says: its rationale, the marker and its label."""
    return Target(rationale, answer=f"{JOINED_ANSWER_PREFIX} {label}")


@dataclass(frozen=True)
class GeneratedText:
    """An output of a student. `is_cut`: it reached the limit before its end. `entropy`: mean over
    its tokens, in nats, of the distributions that it was drawn from, as they are at temperature 1;
    None where it was not measured. `answer_logprob`: of its answer with the end, at temperature 1
    and free, whatever the output was held to; None where it was not asked for or has no answer."""

    text: str
    is_cut: bool
    entropy: float | None = None
    answer_logprob: float | None = None
    n_tokens: int = 0
