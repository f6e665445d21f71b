"""A job's budget while its teacher is asked: what is reserved for a request before it is sent.

A request is sent only if the budget covers the most it can cost: its answer at full length, and
its prompt counted by an earlier sample of it, or else one token per byte, which no tokenizer
exceeds. So the budget holds whatever comes back.
"""

from __future__ import annotations

from qcrd.errors import OverBudget
from qcrd.records.job import Usage
from qcrd.records.spec import Budget
from services.api.assembling.sampling_plan import Wanted
from services.api.assembling.teacher_client import Answer
from services.api.settings import TeacherConfig

MARGIN = 4
"""Tokens that a server may put around a prompt: begin, end, a space."""


class Purse:
    def __init__(
        self, budget: Budget, teacher: TeacherConfig, max_new_tokens: int, spent: Usage
    ) -> None:
        self._budget = budget
        self._teacher = teacher
        self._longest = max_new_tokens
        self._prompt, self._completion = (
            spent.teacher_prompt_tokens,
            spent.teacher_completion_tokens,
        )
        self._measured: dict[str, int] = {}
        self._reserved: dict[str, tuple[int, int]] = {}

    @property
    def in_flight(self) -> int:
        return len(self._reserved)

    def reserve(self, wanted: Wanted) -> bool:
        """Whether the budget covers this request too; if so it is set aside for it."""
        most = (self._most_prompt(wanted.prompt), self._longest)
        prompt = self._prompt + most[0] + sum(p for p, _ in self._reserved.values())
        completion = self._completion + most[1] + sum(c for _, c in self._reserved.values())
        if not self._covers(prompt, completion):
            return False
        self._reserved[wanted.key] = most
        return True

    def settle(self, wanted: Wanted, answer: Answer | None, *, lost: bool = False) -> None:
        """What was set aside is spent as `answer` says, or free again for None.

        `lost`: the answer broke off after it had begun, and nobody knows how much of it is paid
        for; all that was set aside counts as spent.
        """
        most = self._reserved.pop(wanted.key)
        if answer is not None:
            self._measured[wanted.prompt] = answer.prompt_tokens
            most = (answer.prompt_tokens, answer.completion_tokens)
        if answer is not None or lost:
            self._prompt += most[0]
            self._completion += most[1]

    def over(self) -> OverBudget:
        """Says what is spent and how to go on."""
        spent = f"{self._prompt + self._completion:,} teacher tokens"
        limits = []
        if self._budget.teacher_tokens is not None:
            limits.append(f"{self._budget.teacher_tokens:,} tokens")
        if self._budget.cost is not None:
            paid = self._teacher.compute_cost(self._prompt, self._completion) or 0.0
            spent += f" ({paid:.4f} {self._teacher.currency})"
            limits.append(f"{self._budget.cost:g} {self._teacher.currency}")
        return OverBudget(
            f"{spent} are spent, and one more answer could exceed the budget of "
            f"{' and '.join(limits)}; what was answered is kept: resume the job with a larger "
            '`budget`, such as {"budget": {"teacher_tokens": …}}',
            param="budget",
        )

    def _most_prompt(self, prompt: str) -> int:
        return self._measured.get(prompt, len(prompt.encode()) + MARGIN)

    def _covers(self, prompt: int, completion: int) -> bool:
        limit = self._budget
        if limit.teacher_tokens is not None and prompt + completion > limit.teacher_tokens:
            return False
        cost = self._teacher.compute_cost(prompt, completion)
        return limit.cost is None or (cost is not None and cost <= limit.cost)
