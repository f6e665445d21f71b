"""The ids of things, and the keys of the object store; Redis has `redis_keys`."""

from __future__ import annotations

import hashlib
import re
import secrets

from qcrd.errors import Invalid, NotFound

ID_PATTERN = re.compile(r"[a-z]+-[0-9a-f]{24}")


def new_id(prefix: str) -> str:
    """96 random bits: two of 10^9 jobs collide with a probability below 10^-11."""
    return f"{prefix}-{secrets.token_hex(12)}"


def validate_id(value: str, param: str) -> str:
    """Return `value` if it has the form of an id, else raise: only ids become part of keys."""
    if not ID_PATTERN.fullmatch(value):
        raise Invalid(f"`{param}`: {value[:80]!r} is not an id", param=param, code="invalid_id")
    return value


def require_id(value: str, param: str, code: str = "not_found") -> str:
    """Return `value` if it has the form of an id, else raise `NotFound`: nothing here has ids of
    other services, such as `file-abc123`."""
    if not ID_PATTERN.fullmatch(value):
        raise NotFound(
            f"`{param}`: there is no {value[:80]!r} here: list what there is, and take an id of it",
            param=param,
            code=code,
        )
    return value


def digest(*parts: str | bytes) -> str:
    """24 hex digits of the SHA-256 of `parts`; ("ab",) and ("a", "b") have different digests."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)
    return hasher.hexdigest()[:24]


BATCHES = "batches/"
FILES = "files/"
JUDGES = "judges/"
ANSWER_JUDGE_PREFIX = "judge-"
"""Of ids: the other judges have their job's."""
MODELS = "models/"
RATIONALES = "rationales/"
STUDIES = "studies/"
UPLOADS = "uploads/"


def file_key(file_id: str) -> str:
    """Key of a file's content when its record has no `blob`."""
    return f"{FILES}{file_id}/data"


def file_prefix(file_id: str) -> str:
    return f"{FILES}{file_id}/"


def file_meta_key(file_id: str) -> str:
    return f"{file_prefix(file_id)}meta.json"


def file_expiry_key(file_id: str) -> str:
    """An empty object beside the description of a file that may expire."""
    return f"{file_prefix(file_id)}expires"


def is_file_expiry_key(key: str) -> bool:
    return key.endswith("/expires")


def file_time_key(file_id: str, created_at: float) -> str:
    """An empty object with the creation time in its key, to sort files without reading them."""
    return f"{file_prefix(file_id)}at-{int(created_at * 1000):015d}"


def parse_file_time_key(key: str) -> float | None:
    """The seconds since the epoch in such a key; None for any other key."""
    match = re.fullmatch(r"at-([0-9]{1,15})", key.rpartition("/")[2])
    return None if match is None else int(match[1]) / 1000


def upload_key(upload_id: str) -> str:
    """A file's content; the digest that becomes the file's id is only known after the upload."""
    return f"{UPLOADS}{upload_id}"


def generation_prefix(teacher: str, sampling: str) -> str:
    """Raw teacher outputs, shared by every job with this teacher and sampling fingerprint."""
    return f"generations/{teacher}/{sampling}/"


def generation_shard_key(teacher: str, sampling: str, content: str) -> str:
    return f"{generation_prefix(teacher, sampling)}shard-{content}.jsonl.zst"


def batch_prefix(job_id: str) -> str:
    """Of what a job has with its teacher by batch, while it has; apart from what is deleted with
    the job, as a batch costs until it is cancelled."""
    return f"{BATCHES}{job_id}/"


def batch_shard_key(job_id: str, name: str) -> str:
    return f"{batch_prefix(job_id)}{name}.json"


def batch_lines_key(job_id: str, name: str) -> str:
    return f"{batch_prefix(job_id)}{name}.jsonl.zst"


def batch_notes_key(job_id: str) -> str:
    return f"{batch_prefix(job_id)}notes.json"


def rationale_prefix(set_id: str) -> str:
    return f"{RATIONALES}{set_id}/"


def rationale_shard_key(set_id: str, number: int) -> str:
    return f"{rationale_prefix(set_id)}shard-{number:05d}.jsonl.zst"


def rationale_holdout_key(set_id: str, name: str) -> str:
    """Questions held out from training; `name` is `test` or `validation`."""
    return f"{rationale_prefix(set_id)}{name}.jsonl.zst"


def rationale_index_key(set_id: str) -> str:
    """The number is the version of the row layout (services.api.rationale_sets.index): a new
    layout gets a new key, so an index is never read with the wrong layout."""
    return f"{rationale_prefix(set_id)}index-1.npz"


def rationale_edits_prefix(set_id: str) -> str:
    return f"{rationale_prefix(set_id)}edits/"


def rationale_item_edits_prefix(set_id: str, item_id: str) -> str:
    return f"{rationale_edits_prefix(set_id)}{item_id}/"


def rationale_revision_key(set_id: str, revision: str) -> str:
    return f"{rationale_prefix(set_id)}revisions/{revision}.json"


def rationale_scores_prefix(set_id: str) -> str:
    return f"{rationale_prefix(set_id)}judged/"


def rationale_scores_key(set_id: str, job_id: str) -> str:
    return f"{rationale_scores_prefix(set_id)}{job_id}.json"


def rationale_manifest_key(set_id: str) -> str:
    return f"{rationale_prefix(set_id)}manifest.json"


def job_prefix(job_id: str) -> str:
    return f"jobs/{job_id}/"


def job_spec_key(job_id: str) -> str:
    return f"{job_prefix(job_id)}spec.json"


def job_report_key(job_id: str) -> str:
    return f"{job_prefix(job_id)}report.json"


def job_predictions_key(job_id: str) -> str:
    return f"{job_prefix(job_id)}predictions.jsonl"


def job_scores_key(job_id: str) -> str:
    return f"{job_prefix(job_id)}scores.jsonl.zst"


def job_events_key(job_id: str) -> str:
    return f"{job_prefix(job_id)}events.jsonl"


def checkpoint_prefix(job_id: str) -> str:
    return f"{job_prefix(job_id)}checkpoints/"


def judge_prefix(judge_id: str) -> str:
    return f"{JUDGES}{judge_id}/"


def make_answer_judge_id(job_id: str) -> str:
    """Id of the judge of a job's finished student, which outlives the job as its model does."""
    return f"{ANSWER_JUDGE_PREFIX}{digest(job_id, 'answers')}"


def judge_spec_key(judge_id: str) -> str:
    return f"{judge_prefix(judge_id)}spec.json"


def judge_holder_key(judge_id: str) -> str:
    """The newest lease that asked for the judge."""
    return f"{judge_prefix(judge_id)}holder.json"


def judge_version_prefix(judge_id: str, version: int) -> str:
    return f"{judge_prefix(judge_id)}{version:06d}/"


def judge_description_key(judge_id: str, version: int) -> str:
    """Written last: the version exists if this object does."""
    return f"{judge_version_prefix(judge_id, version)}judge.json"


def parse_judge_version(key: str) -> int | None:
    """The version in such a key; None for any other key."""
    match = re.fullmatch(rf"{JUDGES}[^/]+/([0-9]{{6,9}})/judge\.json", key)
    return None if match is None else int(match[1])


def make_model_id(job_id: str) -> str:
    """A job publishes one model; its id is a function of the job's, so a second try replaces it."""
    return f"model-{digest(job_id, 'model')}"


def model_prefix(model_id: str) -> str:
    return f"{MODELS}{model_id}/"


def model_manifest_key(model_id: str) -> str:
    return f"{model_prefix(model_id)}model.json"


def study_key(study_id: str) -> str:
    return f"{STUDIES}{study_id}.json"
