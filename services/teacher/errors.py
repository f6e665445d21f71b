"""Errors of the teacher, with TGI's statuses and `error_type` names.

QcrdError
└── TeacherError            status, error_type, and the seconds of a Retry-After header
    ├── InputValidationError    422 validation     the request itself is wrong: never retry
    │   └── PromptTooLong       422 validation     an upstream says so
    ├── TemplateFailed          422 template_error no chat template, or it refuses the conversation
    ├── MissingTemplateVariable 422 missing_template_variable   it needs what was not given
    ├── ToolError               422 tool_error     a tool that is not there, or an unreadable call
    ├── BatchTooLarge           422                more prompts in one request than are taken
    ├── SuffixNotSupported      422                the completions route takes no `suffix`
    ├── InvalidBody             400/413/415/422    the body could not be read as the route's type
    ├── InvalidApiKey           401 unauthorized
    ├── ModelLoading            503 loading        the model is not in memory yet
    ├── Overloaded              429 overloaded     too many concurrent requests
    ├── ContentFiltered         422 content_filter the upstream withholds its answer: never retry
    ├── GenerationFailed        424 generation     the engine raised
    │   └── UpstreamUnreachable 424 upstream_unreachable    the upstream is away: ask again later
    ├── IncompleteGeneration    500 incomplete_generation   the engine ended without a last token
    └── PredictionFailed        500                a prediction of the Vertex route, whatever it was
"""

from __future__ import annotations

from qcrd.errors import QcrdError
from qcrd.records.teachers.protocol import CONTENT_FILTERED, UPSTREAM_AWAY


class TeacherError(QcrdError):
    error_type = "generation"
    retry_after: int | None = None

    def body(self) -> dict[str, str]:
        return {"error": self.message, "error_type": self.error_type}


class InputValidationError(TeacherError):
    """Text after the prefix is TGI's own (router/src/validation.rs)."""

    status = 422
    error_type = "validation"
    PREFIX = "Input validation error: "

    def __init__(self, reason: str) -> None:
        super().__init__(f"{self.PREFIX}{reason}")


class PromptTooLong(InputValidationError):
    """Of an upstream's limit, which this server does not know or counts otherwise."""


class TemplateFailed(TeacherError):
    status = 422
    error_type = "template_error"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Template error: {reason}")


class MissingTemplateVariable(TeacherError):
    """The word is misspelt in TGI too, and clients may look for it (infer/mod.rs)."""

    status = 422
    error_type = "missing_template_variable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Missing template vatiable: {reason}")


class ToolError(TeacherError):
    status = 422
    error_type = "tool_error"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Tool error: {reason}")


class BatchTooLarge(TeacherError):
    status = 422
    error_type = "batch size exceeded"

    def __init__(self, max_batch_size: int) -> None:
        super().__init__(
            f"Number of prompts exceeds the maximum allowed batch size of {max_batch_size}"
        )


class SuffixNotSupported(TeacherError):
    status = 422
    error_type = "suffix not supported"

    def __init__(self) -> None:
        super().__init__("Suffix is not supported and can be achieved by preprocessing the prompt.")


class InvalidBody(TeacherError):
    error_type = "validation"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class InvalidApiKey(TeacherError):
    status = 401
    error_type = "unauthorized"


class ModelLoading(TeacherError):
    status = 503
    error_type = "loading"
    retry_after = 2


class Overloaded(TeacherError):
    status = 429
    error_type = "overloaded"
    retry_after = 1


class GenerationFailed(TeacherError):
    status = 424
    error_type = "generation"
    PREFIX = "Request failed during generation: "

    def __init__(self, reason: str) -> None:
        super().__init__(f"{self.PREFIX}{reason}")
        self.reason = reason


class UpstreamUnreachable(GenerationFailed):
    error_type = "upstream_unreachable"
    PREFIX = UPSTREAM_AWAY


class ContentFiltered(TeacherError):
    status = 422
    error_type = "content_filter"

    def __init__(self, reason: str) -> None:
        super().__init__(f"{CONTENT_FILTERED}{reason}")


class IncompleteGeneration(TeacherError):
    status = 500
    error_type = "incomplete_generation"

    def __init__(self) -> None:
        super().__init__("Incomplete generation")


class PredictionFailed(TeacherError):
    status = 500
    error_type = "Incomplete generation"

    def __init__(self) -> None:
        super().__init__("Incomplete generation")


def first_error(errors: ExceptionGroup[TeacherError]) -> TeacherError:
    """The first error of a group of tasks, which itself may have had a group of its own."""
    inner = errors.exceptions[0]
    return first_error(inner) if isinstance(inner, ExceptionGroup) else inner
