"""Keys of what is kept of ended jobs, and of what says that generations are used."""

from __future__ import annotations

import re

from qcrd.runtime import keys

JOBS = "jobs/"
ENDED = "ended/"
DELETED = "deleted-jobs/"
GENERATIONS = "generations/"
PUBLISHED = "published/"
PUBLISHED_COMPLETE = "published-complete"
"""An empty object: all models of earlier releases are among the published ones."""
GENERATION_INDEXES = "generation-indexes/"
GENERATION_USES = "generation-uses/"
MAX_MICROSECONDS = 10**16
"""Of the year 2286: subtracted from it, a later time sorts first."""
_PLACE = re.compile(r"([0-9]{16})-([a-z]+)-([0-9a-z]+)")
_EVENT_PAGE = re.compile(r"([0-9]+-[0-9]+)_([0-9]+-[0-9]+)\.jsonl\.zst")
_INVERTED_DIGITS = str.maketrans("0123456789abcdef", "fedcba9876543210")


def job_record_key(job_id: str) -> str:
    """The record of an ended job."""
    return f"{keys.job_prefix(job_id)}job.json"


def job_snapshot_key(job_id: str) -> str:
    """The record of a living job, as it was created or began its last stage."""
    return f"{keys.job_prefix(job_id)}snapshot.json"


def ended_job_key(job_id: str, created_at: float) -> str:
    """An empty object whose key sorts ended jobs as their list does: the newest first, and of the
    same microsecond the largest id first."""
    return ENDED + _make_place(job_id, created_at)


def deleted_job_key(job_id: str) -> str:
    """An empty object: the job is being deleted, or was, and what is written of it has to go."""
    return f"{DELETED}{job_id}"


def parse_ended_job_key(key: str) -> tuple[float, str] | None:
    """The time of creation in seconds since the epoch, to the microsecond, and the job's id; None
    for what is no such key and only lies there."""
    return _parse_place(key.removeprefix(ENDED))


def published_model_key(model_id: str, created_at: float) -> str:
    """An empty object that sorts published models in the same way."""
    return PUBLISHED + _make_place(model_id, created_at)


def parse_published_model_key(key: str) -> tuple[float, str] | None:
    """The time of publication in seconds since the epoch, and the model's id; None as above."""
    return _parse_place(key.removeprefix(PUBLISHED))


def _make_place(name: str, created_at: float) -> str:
    prefix, _, digits = name.partition("-")
    time = MAX_MICROSECONDS - round(created_at * 1_000_000)
    return f"{time:016d}-{prefix}-{digits.translate(_INVERTED_DIGITS)}"


def _parse_place(place: str) -> tuple[float, str] | None:
    if (match := _PLACE.fullmatch(place)) is None:
        return None
    time, prefix, digits = match.groups()
    created_at = (MAX_MICROSECONDS - int(time)) / 1_000_000
    return created_at, f"{prefix}-{digits.translate(_INVERTED_DIGITS)}"


def event_pages_prefix(job_id: str) -> str:
    return f"{keys.job_prefix(job_id)}events/"


def event_page_key(job_id: str, first: str, last: str) -> str:
    """A page of events, from the id of its first one to that of its last one."""
    return f"{event_pages_prefix(job_id)}{first}_{last}.jsonl.zst"


def parse_event_page_key(key: str) -> tuple[str, str] | None:
    """The ids of the first and the last event; None for what is no page."""
    match = _EVENT_PAGE.fullmatch(key.rsplit("/", 1)[1])
    return None if match is None else (match[1], match[2])


def generation_index_prefix(teacher: str, sampling: str) -> str:
    """Of what says which shard has which generation of this teacher and sampling."""
    return f"{GENERATION_INDEXES}{teacher}/{sampling}/"


def generation_use_key(teacher: str, sampling: str, job_id: str) -> str:
    """An empty object: the job needs the generations of this teacher and sampling."""
    return f"{GENERATION_USES}{teacher}/{sampling}/{job_id}"
