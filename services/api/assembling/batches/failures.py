"""Batches of which nothing, or not all, came: why, and what the job does about it."""

from __future__ import annotations

from dataclasses import dataclass

from openai.types import Batch

from qcrd.errors import MustPause, QcrdError
from services.api.assembling.batches.shard import Shard
from services.api.assembling.teacher.openai.batches import BatchClient
from services.api.assembling.teacher.openai.error_body import ServerError
from services.api.assembling.tokens.token_sums import Tokens

NO_ROOM_CODES = frozenset({"token_limit_exceeded", "request_limit_exceeded"})
"""OpenAI's, for batches of an account that are more together than it may have in line: the first is
seen in openai-python's issue 2084, read 2026-11-28."""
MAX_SHOWN_ERRORS = 3


class BatchLost(MustPause):
    """Nobody can fetch the answers of a batch that may have been paid."""

    default_code = "batch_lost"


@dataclass(frozen=True)
class BatchFailure:
    """Of a batch that the provider did not take; "" where it did. `is_learnt`: the requests are
    worth another try without what was refused. `no_room`: it may take it later."""

    words: str = ""
    is_learnt: bool = False
    no_room: str | None = None

    def make_error(self) -> QcrdError | None:
        """Where asking again does not help."""
        if not self.words or self.is_learnt or self.no_room is not None:
            return None
        return QcrdError(self.words, code="teacher_refused")


def read_failure(client: BatchClient, shard: Shard, batch: Batch) -> BatchFailure:
    if batch.status != "failed":
        return BatchFailure()
    errors = [
        ServerError(client.hide_secrets(each.message or ""), each.param or "", each.code or "")
        for each in (batch.errors.data if batch.errors else None) or ()
    ]
    shown = "; ".join(_describe(each) for each in errors[:MAX_SHOWN_ERRORS])
    more = f"; and {len(errors) - MAX_SHOWN_ERRORS} more" if len(errors) > MAX_SHOWN_ERRORS else ""
    most = max(len(line.samples) for line in shard.lines)
    sent = dict.fromkeys(shard.parameters) | {"n": most}
    learnt = [client.support.learn_refusal(400, each, sent) for each in errors]
    return BatchFailure(
        f"{client.label} does not take batch {batch.id}: {shown or 'it does not say why'}{more}; "
        "what was answered is kept",
        is_learnt=any(learnt),
        no_room=next((each.message for each in errors if each.code in NO_ROOM_CODES), None),
    )


def _describe(error: ServerError) -> str:
    return f"{error.message} ({error.code})" if error.code else error.message


def make_fruitless_error(label: str, batch: Batch, times: int) -> QcrdError:
    return QcrdError(
        f"{label}: nothing came of {times} batches in a row; the last one, {batch.id}, "
        f"{batch.status}. What was answered before is kept: create the job anew, with "
        "`rationales.batch: false` to ask without batches",
        code="batches_fruitless",
    )


def make_lost_error(label: str, shard: Shard | None, why: str, lost: Tokens) -> BatchLost:
    batch = "a batch" if shard is None or shard.batch_id is None else f"batch {shard.batch_id}"
    return BatchLost(
        f"{label}: the job has asked by {batch} {why}, so its answers cannot be fetched; the "
        f"{lost.total:,} tokens that it can have cost are uncertain. Resume the job to have the "
        "same asked again"
    )
