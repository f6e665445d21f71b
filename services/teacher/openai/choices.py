"""How many choices a request may ask for: `n`, which TGI ignores."""

from __future__ import annotations

from services.teacher.errors import InputValidationError
from services.teacher.inference.session import InferenceService


def check_choices(n: int | None, inference: InferenceService, *, prompts: int = 1) -> None:
    """Raises `InputValidationError` when `n` choices of each prompt are more than can run."""
    if n is None or inference.settings.tgi_strict:
        return
    if not 1 <= n <= inference.max_choices:
        raise InputValidationError(f"`n` must be >= 1 and <= {inference.max_choices}. Given: {n}")
    most = inference.limiter.max_concurrent_requests
    if n * prompts > most:
        raise InputValidationError(
            f"`n` for each of {prompts} prompts must be <= {most} together. Given: {n * prompts}"
        )
