"""The error tree. The class alone decides whether a failed operation may be retried.

QcrdError
├── Invalid            the caller's input is wrong: report it, never retry       (HTTP 400)
│   ├── Unauthorized   no API key, or an unknown one                             (HTTP 401)
│   ├── Forbidden      the API key is known but lacks the permission             (HTTP 403)
│   ├── NotFound       the named object does not exist                           (HTTP 404)
│   └── Conflict       the object's state does not allow this                    (HTTP 409)
├── Transient          an external service failed: back off and retry            (HTTP 503)
│   └── TooMany        the caller exceeded its rate limit                        (HTTP 429)
├── LeaseLost          another worker owns the job now: stop, write nothing more (HTTP 409)
├── Interrupted        the job was cancelled or paused while its stage ran
├── MustPause          a person has to decide how the job goes on: it is paused
│   ├── OverBudget     the next request could exceed the job's budget
│   ├── TooManyRefused the teacher refuses more of the questions than the job allows
│   ├── NothingSaid    the teacher answers, and every answer is empty
│   └── NoQuota        the teacher's account has no credit left
├── UnreadableRecord   a stored record of a later major version, or damaged        (HTTP 501)
└── Diverged           the training loss left its bounds: the job fails, with advice
"""

from __future__ import annotations


class QcrdError(Exception):
    """Base class of the errors that this project raises deliberately.

    `param` is the dotted path of the offending field (`method.qcrd.rationales.n`); `code` is a
    stable machine-readable name. Both appear unchanged in the REST error object.
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
    """`retry_after` is in seconds; None: the caller's own back-off decides."""

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
    status = 409
    default_code = "lease_lost"


class Interrupted(QcrdError):
    default_code = "interrupted"


class MustPause(QcrdError):
    default_code = "must_pause"


class OverBudget(MustPause):
    default_code = "over_budget"


class TooManyRefused(MustPause):
    default_code = "too_many_refused"


class NothingSaid(MustPause):
    default_code = "nothing_said"


class NoQuota(MustPause):
    default_code = "no_quota"


class Diverged(QcrdError):
    status = 409
    default_code = "diverged"


class UnreadableRecord(QcrdError):
    """It is left as it is for a release that can read it, and only what needs it fails."""

    status = 501
    default_code = "unreadable_record"
