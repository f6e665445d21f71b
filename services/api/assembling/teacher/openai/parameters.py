"""The parameters that an OpenAI-compatible server takes, learnt from what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from qcrd.errors import QcrdError, Transient
from qcrd.records.teachers.notes import LearntParameters
from services.api.assembling.sampling_plan import PromptRequest, SamplingParams
from services.api.assembling.teacher.memory import FORGETFUL, TeacherMemory
from services.api.assembling.teacher.openai.error_body import ServerError
from services.api.assembling.teacher.prompt_refused import TOO_LONG_PATTERN, PromptRefused
from services.api.assembling.teacher.teacher_client import Notify

OPTIONAL = frozenset({"temperature", "top_p", "seed", "stop", "stream_options", "response_format"})
"""What can be left out: the server's own choice then takes its place."""
REMEMBERED = (OPTIONAL - {"response_format"}) | {"max_tokens"}
"""What other jobs need not find out again. Whether a schema is taken depends on the schema."""
REFUSAL_STATUSES = (400, 422, 500)
"""llama.cpp's server refused several choices with a 500 until 2026."""
UNSUPPORTED_PATTERN = re.compile(
    r"unsupported|(?:not|n't) (?:be )?(?:support|permit|allow|enabl|accept|implement)"
    r"|unrecogni[sz]ed|unknown|unexpected|unavailable|extra (?:inputs|fields)|only the default"
    r"|invalid schema|must be one of",
    re.IGNORECASE,
)
CHOICES_PATTERN = re.compile(
    r"\bmultiple (?:candidates|choices|completions)|only one completion choice|\bn_cmpl\b"
    r"|[`'\"]n[`'\"]|\bn(?::| must| is| can)",
    re.IGNORECASE,
)
"""Refusals of several choices that do not name the parameter in the error's `param`."""
LARGEST_CHOICES = re.compile(r"(?:value <=|at most|up to|between 1 and) ?(\d+)")
"""The most choices, where such a refusal tells it."""


class ParameterSupport:
    """`max_choices` and the names of the parameters that go out; both shrink as refusals come.
    `memory` has what earlier jobs met, and gets what this one meets."""

    def __init__(
        self,
        notify: Notify,
        *,
        max_choices: int,
        left_out: Collection[str] = (),
        memory: TeacherMemory = FORGETFUL,
    ) -> None:
        self._notify = notify
        self._memory = memory
        known = memory.recall()
        self._met = set(known.left_out) & REMEMBERED
        self._learnt_choices = known.max_choices
        self.max_choices = max(1, min(max_choices, known.max_choices or max_choices))
        self._left_out = {*left_out, *self._met}
        # Every server knows it, but for OpenAI's newer models.
        self._limit = "max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens"
        self._tell_known(left_out)
        self.is_settled = False
        """Whether an answer has begun since: address, key and parameters are right."""
        self._lock = asyncio.Lock()
        self._refusal: QcrdError | None = None

    @asynccontextmanager
    async def take_turn(self) -> AsyncIterator[None]:
        """Requests go one by one until the first has its answer, so that all of a round do not meet
        the same refusal. One that asking again cannot help is raised for those that waited too."""
        if self.is_settled:
            yield
            return
        await self._lock.acquire()
        if self.is_settled:  # while this one waited
            self._lock.release()
            yield
            return
        try:
            if self._refusal is not None:
                raise self._refusal
            yield
        except QcrdError as error:
            if not isinstance(error, Transient | PromptRefused):
                self._refusal = error
            raise
        finally:
            if not self.is_settled:
                self._lock.release()

    @property
    def left_out(self) -> list[str]:
        """What another one of this class is made with to know as much."""
        return sorted(self._left_out)

    def settle(self) -> None:
        """An answer has begun, so what is sent is taken: those that wait for their turn may go."""
        if not self.is_settled:
            self.is_settled = True
            self._lock.release()  # only the request whose turn it is can come here

    def build_fields(self, request: PromptRequest, sampling: SamplingParams) -> dict[str, Any]:
        greedy = sampling.temperature == 0
        fields = {
            "n": len(request.samples) if len(request.samples) > 1 else None,
            self._limit: sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": None if greedy else sampling.top_p,
            "seed": request.seed,
            "stop": list(sampling.stop) or None,
            "stream_options": {"include_usage": True},
            "response_format": _build_response_format(request.prompt.schema),
        }
        return {
            name: value
            for name, value in fields.items()
            if value is not None and name not in self._left_out
        }

    def learn_refusal(self, status: int, error: ServerError, sent: Mapping[str, Any]) -> bool:
        """Whether the same request without what was refused is worth a try."""
        if status not in REFUSAL_STATUSES or TOO_LONG_PATTERN.search(error.message):
            return False
        asked = sent.get("n", 1)
        if asked > self.max_choices:
            return True  # another request of as many met the refusal before
        if asked > 1 and (error.param == "n" or CHOICES_PATTERN.search(error.message)):
            found = LARGEST_CHOICES.search(error.message)
            self.limit_choices(min(int(found[1]) if found else 1, asked - 1))
            return True
        name = error.param if error.param in sent else _find_name(error.message, sent)
        is_unsupported = error.is_unsupported or UNSUPPORTED_PATTERN.search(error.message)
        if name is None or status == 500 or not is_unsupported:
            return False
        if name in self._left_out:
            return True
        if name == "max_tokens":
            self._leave_out(name)
            self._limit = "max_completion_tokens"
            self._notify("it takes `max_completion_tokens` in place of `max_tokens`")
            return True
        if name not in OPTIONAL:
            return False
        self._leave_out(name)
        self._notify(f"it takes no `{name}`, which is left out ({error.message[:200]})")
        return True

    def _leave_out(self, name: str) -> None:
        self._left_out.add(name)
        if name in REMEMBERED:
            self._met.add(name)
            self._remember()

    def _remember(self) -> None:
        self._memory.remember(
            LearntParameters(left_out=tuple(sorted(self._met)), max_choices=self._learnt_choices)
        )

    def _tell_known(self, told: Collection[str]) -> None:
        """What an earlier job has met changes this one's outputs too. `told`: known otherwise."""
        if names := sorted(self._met - set(told)):
            listed = ", ".join(f"`{name}`" for name in names)
            self._notify(f"it takes no {listed}, as an earlier job found out: left out")
        if self._learnt_choices is not None:
            self._notify(f"{_describe_choices(self._learnt_choices)}, as an earlier job found out")

    def learn_choices(self, asked: int, came: int) -> None:
        """A server that ignores `n` answers with one."""
        if came < asked:
            self.limit_choices(1)

    def offer_choices(self, most: int) -> None:
        """The server says that it gives so many; what its answers told before is believed more."""
        self.max_choices = max(1, min(most, self._learnt_choices or most))

    def limit_choices(self, most: int) -> None:
        most = max(1, min(most, self.max_choices - 1))
        if most < self.max_choices:
            self.max_choices = self._learnt_choices = most
            self._remember()
            self._notify(f"{_describe_choices(most)}, so the prompt is sent again")


def _describe_choices(most: int) -> str:
    several = "one sample" if most == 1 else f"{most} samples"
    return f"it gives {several} of a prompt per request"


def _build_response_format(schema: str) -> dict[str, Any] | None:
    if not schema:
        return None
    described = {"name": "explained_answer", "strict": True, "schema": json.loads(schema)}
    return {"type": "json_schema", "json_schema": described}


def _find_name(message: str, sent: Collection[str]) -> str | None:
    named = re.findall(r"[a-z_]{3,}", message)
    return next((name for name in named if name in sent), None)
