"""How one answer is chosen among several outputs of a student: by their vote, or by its judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from qcrd.records.students.prompt_format import PromptFormat
from services.teacher.errors import InputValidationError
from services.teacher.openai.requests import ChatRequest
from services.teacher.students.errors import JudgeNotUseful

MAX_OUTPUTS = 32
DEFAULT_TEMPERATURE = 0.7
R = TypeVar("R", bound=ChatRequest)


@dataclass(frozen=True)
class Selection:
    """`count` outputs, of which their vote is the answer, or the one that the judge scores best."""

    kind: Literal["vote", "best_of"]
    count: int

    def with_sampling(self, request: R, prompt_format: PromptFormat) -> R:
        """`request` at the temperature that votes were measured at, where it names none."""
        if request.temperature is not None or request.top_p is not None:
            return request
        measured = prompt_format.vote_confidence
        temperature = DEFAULT_TEMPERATURE if measured is None else measured.temperature
        seed = 0 if request.seed is None else request.seed
        return request.model_copy(update={"temperature": temperature, "seed": seed})


def read_selection(vote: int | None, best_of: int | None) -> Selection | None:
    """Of a request's two fields, of which one at most is given. Raises `InputValidationError`."""
    if vote is not None and best_of is not None:
        raise InputValidationError("`vote` and `best_of` are two ways to choose: give one of them")
    if vote is not None:
        return Selection("vote", vote)
    return None if best_of is None else Selection("best_of", best_of)


def check_selection(
    selection: Selection, prompt_format: PromptFormat, *, stream: bool, n: int
) -> None:
    """Raises `InputValidationError`, and `JudgeNotUseful` where no judge can choose."""
    name = selection.kind
    if not 2 <= selection.count <= MAX_OUTPUTS:
        raise InputValidationError(
            f"`{name}` must be >= 2 and <= {MAX_OUTPUTS}. Given: {selection.count}"
        )
    if stream or n > 1:
        field = "stream" if stream else "n"
        raise InputValidationError(
            f"`{name}` gives one answer, which is known when all outputs are: leave out `{field}`"
        )
    if not prompt_format.joined:
        raise InputValidationError(
            f"`{name}`: this student does not answer behind a rationale, its outputs hardly differ"
        )
    if name == "best_of":
        _check_judge(prompt_format)


def _check_judge(prompt_format: PromptFormat) -> None:
    judge = prompt_format.judge
    if judge is None:
        raise JudgeNotUseful(
            "`best_of`: no judge of answers was trained with this student "
            "(`evaluation.judge` of its job); `vote` needs none"
        )
    if judge.reason is not None:
        raise JudgeNotUseful(f"`best_of`: the judge does not help: {judge.reason}; use `vote`")
