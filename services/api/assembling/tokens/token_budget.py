"""Token budget of a job: what may be reserved for the next request to its teacher.

A request is sent only while what is spent, what may be, what is in flight and the most that this
one can cost are within the budget together: its prompt, and an answer at full length.
"""

from __future__ import annotations

from qcrd.errors import OverBudget
from qcrd.records.specs.spec import Budget
from services.api.assembling.tokens.token_account import Reservation, TokenAccount
from services.api.assembling.tokens.token_sums import Tokens
from services.api.settings import TeacherConfig


class TokenBudget:
    def __init__(self, budget: Budget, teacher: TeacherConfig, account: TokenAccount) -> None:
        self.account = account
        self._budget = budget
        self._teacher = teacher

    @property
    def in_flight(self) -> int:
        return self.account.in_flight

    def reserve(self, tokens: Tokens) -> Reservation | None:
        """`tokens` set aside for one request, or None when the budget does not cover them too."""
        return self.account.reserve(tokens) if self.has_room(tokens) else None

    def has_room(self, tokens: Tokens) -> bool:
        """Whether the budget covers them too."""
        account = self.account
        most = account.spent + account.uncertain + account.reserved + tokens
        return covers(self._budget, self._teacher, most)

    def make_over_budget_error(self, tokens: Tokens) -> OverBudget:
        """Says what is spent, what one more request takes, and how to go on."""
        spent, uncertain = self.account.spent, self.account.uncertain
        text = f"{self._describe(spent)} are spent"
        ways = ['a larger `budget`, such as {"budget": {"teacher_tokens": …}}']
        if uncertain.total:
            text += f", {self._describe(uncertain)} more may be (answers that broke off)"
            ways.append('{"release_uncertain": true}, which takes those for not spent')
        return OverBudget(
            f"{text}, and one more answer can take {describe_request(tokens)}, which could exceed "
            f"the budget of {describe_limits(self._budget, self._teacher)}; what was answered is "
            f"kept: resume the job with {' or with '.join(ways)}",
            param="budget",
        )

    def _describe(self, tokens: Tokens) -> str:
        text = f"{tokens.total:,} teacher tokens"
        cost = tokens.compute_cost(self._teacher)
        if self._budget.cost is None or cost is None:
            return text
        return f"{text} ({cost:.4f} {self._teacher.currency})"


def covers(budget: Budget, teacher: TeacherConfig, tokens: Tokens) -> bool:
    if budget.teacher_tokens is not None and tokens.total > budget.teacher_tokens:
        return False
    cost = tokens.compute_cost(teacher)
    return budget.cost is None or (cost is not None and cost <= budget.cost)


def describe_request(tokens: Tokens) -> str:
    """The sum that is reserved for a request of one sample."""
    estimated = " (estimated)" if tokens.estimated else ""
    return (
        f"{tokens.prompt:,} prompt tokens{estimated} + 1 × {tokens.completion:,} new tokens = "
        f"{tokens.total:,} tokens"
    )


def describe_limits(budget: Budget, teacher: TeacherConfig) -> str:
    limits = []
    if budget.teacher_tokens is not None:
        limits.append(f"{budget.teacher_tokens:,} tokens")
    if budget.cost is not None:
        limits.append(f"{budget.cost:g} {teacher.currency}")
    return " and ".join(limits)
