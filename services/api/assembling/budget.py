"""Token budget of a job: tokens are reserved before each request to its teacher.

A request is sent only if the budget covers the most it can cost: its output at full length, and
its prompt counted by an earlier sample of it, or else one token per byte, which no tokenizer
exceeds. So the budget is never exceeded.
"""

from __future__ import annotations

from qcrd.errors import OverBudget
from qcrd.records.job import Usage
from qcrd.records.spec import Budget
from services.api.assembling.sampling_plan import SampleRequest
from services.api.assembling.teacher_client import Completion
from services.api.settings import TeacherConfig

PROMPT_TOKEN_MARGIN = 4
"""Tokens that a server may add to a prompt: begin, end, a space."""


class TokenBudget:
    def __init__(
        self, budget: Budget, teacher: TeacherConfig, max_new_tokens: int, spent: Usage
    ) -> None:
        self._budget = budget
        self._teacher = teacher
        self._max_new_tokens = max_new_tokens
        self._prompt_tokens, self._completion_tokens = (
            spent.teacher_prompt_tokens,
            spent.teacher_completion_tokens,
        )
        self._prompt_token_counts: dict[str, int] = {}
        self._reservations: dict[str, tuple[int, int]] = {}

    @property
    def in_flight(self) -> int:
        return len(self._reservations)

    def reserve(self, request: SampleRequest) -> bool:
        """Reserve this request's tokens; False when the budget does not cover it."""
        reservation = (self._max_prompt_tokens(request.prompt), self._max_new_tokens)
        prompt = (
            self._prompt_tokens + reservation[0] + sum(p for p, _ in self._reservations.values())
        )
        completion = (
            self._completion_tokens
            + reservation[1]
            + sum(c for _, c in self._reservations.values())
        )
        if not self._is_within_budget(prompt, completion):
            return False
        self._reservations[request.key] = reservation
        return True

    def settle(
        self, request: SampleRequest, completion: Completion | None, *, partial: bool = False
    ) -> None:
        """Replace a reservation by the tokens of `completion`, or release it for None.

        `partial`: the output broke off after it had begun, so its cost is unknown; the whole
        reservation counts as spent.
        """
        tokens = self._reservations.pop(request.key)
        if completion is not None:
            self._prompt_token_counts[request.prompt] = completion.prompt_tokens
            tokens = (completion.prompt_tokens, completion.completion_tokens)
        if completion is not None or partial:
            self._prompt_tokens += tokens[0]
            self._completion_tokens += tokens[1]

    def make_over_budget_error(self) -> OverBudget:
        """The error of a spent budget, with the tokens spent and how to resume the job."""
        spent = f"{self._prompt_tokens + self._completion_tokens:,} teacher tokens"
        limits = []
        if self._budget.teacher_tokens is not None:
            limits.append(f"{self._budget.teacher_tokens:,} tokens")
        if self._budget.cost is not None:
            paid = self._teacher.compute_cost(self._prompt_tokens, self._completion_tokens) or 0.0
            spent += f" ({paid:.4f} {self._teacher.currency})"
            limits.append(f"{self._budget.cost:g} {self._teacher.currency}")
        return OverBudget(
            f"{spent} are spent, and one more answer could exceed the budget of "
            f"{' and '.join(limits)}; what was answered is kept: resume the job with a larger "
            '`budget`, such as {"budget": {"teacher_tokens": …}}',
            param="budget",
        )

    def _max_prompt_tokens(self, prompt: str) -> int:
        return self._prompt_token_counts.get(prompt, len(prompt.encode()) + PROMPT_TOKEN_MARGIN)

    def _is_within_budget(self, prompt: int, completion: int) -> bool:
        limit = self._budget
        if limit.teacher_tokens is not None and prompt + completion > limit.teacher_tokens:
            return False
        cost = self._teacher.compute_cost(prompt, completion)
        return limit.cost is None or (cost is not None and cost <= limit.cost)
