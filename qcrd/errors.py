"""The error tree. A class says who may retry; nothing else does.

QcrdError
├── Invalid            the caller's input is wrong: report it, never retry       (HTTP 400)
│   ├── Unauthorized   no key, or one that is not known                          (HTTP 401)
│   ├── Forbidden      the key is known and may not do this                      (HTTP 403)
│   ├── NotFound       the named thing does not exist                            (HTTP 404)
│   └── Conflict       the thing exists but is not in a state that allows this   (HTTP 409)
├── Transient          something outside failed: back off and try again          (HTTP 503)
│   └── TooMany        this caller has asked more than its share for now         (HTTP 429)
├── LeaseLost          another worker owns the job now: stop, write nothing more
├── Interrupted        the job was cancelled or paused while its stage ran
├── OverBudget         going on would cost more than the job may: paused, until someone decides
└── Diverged           training left the bounds its loss allows: failed, with advice
"""

from __future__ import annotations


class QcrdError(Exception):
    """Base of every error this project raises on purpose.

    `param` is the dotted path of the offending field (`method.qcrd.rationales.n`); `code` is a
    stable machine-readable name. Both travel unchanged into the REST error envelope.
    """

    status = 500
    default_code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code


class Invalid(QcrdError):
    status = 400
    default_code = "invalid_value"


class Unauthorized(Invalid):
    status = 401
    default_code = "invalid_api_key"


class Forbidden(Invalid):
    status = 403
    default_code = "forbidden"


class NotFound(Invalid):
    status = 404
    default_code = "not_found"


class Conflict(Invalid):
    status = 409
    default_code = "conflict"


class Transient(QcrdError):
    """`retry_after` is in seconds; None leaves the wait to the caller's own back-off."""

    status = 503
    default_code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after = retry_after


class TooMany(Transient):
    status = 429
    default_code = "rate_limit_exceeded"


class LeaseLost(QcrdError):
    default_code = "lease_lost"


class Interrupted(QcrdError):
    default_code = "interrupted"


class OverBudget(QcrdError):
    default_code = "over_budget"


class Diverged(QcrdError):
    default_code = "diverged"
