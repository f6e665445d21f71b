"""OpenAI's routes for batches and their files, of one server."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import openai
from openai.types import Batch

from qcrd.errors import QcrdError
from services.api.assembling.sampling_plan import PromptRequest, SamplingParams
from services.api.assembling.teacher.credentials import list_secrets
from services.api.assembling.teacher.memory import FORGETFUL, TeacherMemory
from services.api.assembling.teacher.openai.client import (
    MAX_CHOICES,
    make_base_url,
    make_fingerprint,
)
from services.api.assembling.teacher.openai.connection import make_openai_client
from services.api.assembling.teacher.openai.error_body import hide_secrets
from services.api.assembling.teacher.openai.errors import translate_openai_errors
from services.api.assembling.teacher.openai.generator import build_body
from services.api.assembling.teacher.openai.parameters import ParameterSupport
from services.api.assembling.teacher.openai.providers import find_provider
from services.api.assembling.teacher.prompt_refused import PromptRefused
from services.api.assembling.teacher.teacher_client import Notify
from services.api.assembling.teacher.teacher_errors import TeacherUnreachable
from services.api.settings import TeacherConfig

MAX_LINES = 50_000
MAX_FILE_BYTES = 200_000_000
"""Of one batch: `BatchCreateParams.input_file_id` of openai 3.54.0, read 2026-11-28."""
SHARD_KEY = "qcrd_shard"
"""Of a batch's metadata, under which its shard's name stands."""
COMPLETION_WINDOW: Literal["24h"] = "24h"
PROBE_TIMEOUT_SECONDS = 10.0
NO_ROUTE_STATUSES = (404, 405, 501)
PAGE_SIZE = 100
SPOOL_BYTES = 8 * 2**20


class NoBatches(QcrdError):
    """The server has no routes for batches."""

    default_code = "no_batches"


class BatchClient:
    """`left_out` and `max_choices` are what an earlier one of these learnt about the server. Close
    it when the last request is done."""

    def __init__(
        self,
        name: str,
        teacher: TeacherConfig,
        notify: Notify,
        *,
        left_out: Iterable[str] = (),
        max_choices: int | None = None,
        memory: TeacherMemory = FORGETFUL,
    ) -> None:
        assert teacher.model is not None  # the configuration is refused without
        self.name = name
        self.label = f"teacher {name}"
        self.secrets = list_secrets(teacher)
        self._model = teacher.model
        base_url = make_base_url(teacher.url)
        self.fingerprint = make_fingerprint(base_url, teacher.model)
        self._client = make_openai_client(teacher, base_url)
        provider = find_provider(base_url)
        most = MAX_CHOICES if provider is None else provider.max_choices
        known = () if provider is None else provider.left_out
        self.support = ParameterSupport(
            notify,
            max_choices=min(most, max_choices or most),
            left_out={*known, *left_out, "stream_options"},
            memory=memory,
        )

    async def check_routes(self) -> None:
        """`NoBatches` where there are none."""
        with self._translate():
            try:
                await self._client.batches.with_raw_response.list(
                    limit=1, timeout=PROBE_TIMEOUT_SECONDS
                )
            except openai.APIStatusError as error:
                if error.status_code in NO_ROUTE_STATUSES:
                    raise NoBatches(
                        f"{self.label} has no routes for batches: GET /batches responds "
                        f"{error.status_code}"
                    ) from error
                raise

    def build_line(self, custom_id: str, request: PromptRequest, sampling: SamplingParams) -> bytes:
        """Of a batch's file: the request as it would be sent by itself, but for the stream."""
        body = build_body(self._model, request.prompt) | self.support.build_fields(
            request, sampling
        )
        line = {"custom_id": custom_id, "method": "POST", "url": _get_route(request), "body": body}
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"

    def list_parameters(self, request: PromptRequest, sampling: SamplingParams) -> list[str]:
        return sorted(self.support.build_fields(request, sampling))

    async def create(
        self,
        name: str,
        lines: Iterable[bytes],
        first: PromptRequest,
        check: Callable[[], None],
    ) -> Batch:
        """Upload the lines and make a batch of them, which has `name` in its metadata. All of them
        are of the kind of `first`. `check` may raise in between, where nothing is to be paid yet.
        """
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool, self._translate():
            spool.writelines(lines)
            spool.seek(0)
            file = await self._client.files.create(
                file=(f"{name}.jsonl", cast(Any, spool)), purpose="batch"
            )
            check()
            created = await self._client.batches.create(
                input_file_id=file.id,
                endpoint=cast(Any, _get_route(first)),
                completion_window=COMPLETION_WINDOW,
                metadata={SHARD_KEY: name},
            )
        return _require_batch(created, self.label)

    async def find(self, name: str) -> Batch | None:
        """The batch that has `name` in its metadata."""
        with self._translate():
            async for batch in self._client.batches.list(limit=PAGE_SIZE):
                if (batch.metadata or {}).get(SHARD_KEY) == name:
                    return batch
        return None

    async def retrieve(self, batch_id: str) -> Batch | None:
        """None when the server knows it no more."""
        with self._translate():
            try:
                found = await self._client.batches.retrieve(batch_id)
            except openai.NotFoundError:
                return None
        return _require_batch(found, self.label)

    async def cancel(self, batch_id: str) -> None:
        """One that has ended meanwhile stays as it is."""
        with self._translate():
            try:
                await self._client.batches.cancel(batch_id)
            except (openai.ConflictError, openai.BadRequestError, openai.NotFoundError):
                return

    async def iter_lines(self, file_id: str) -> AsyncIterator[Mapping[str, Any]]:
        """The lines of an output or error file that can be read; none of a file that is gone."""
        with self._translate():
            try:
                opened = self._client.files.with_streaming_response.content(file_id)
                async with opened as response:
                    async for line in _split_lines(response.iter_bytes()):
                        if (parsed := _parse_line(line)) is not None:
                            yield parsed
            except openai.NotFoundError:
                return

    async def delete_file(self, file_id: str) -> None:
        with self._translate():
            await self._client.files.delete(file_id)

    def hide_secrets(self, text: str) -> str:
        return hide_secrets(text, self.secrets)

    async def close(self) -> None:
        await self._client.close()

    @contextmanager
    def _translate(self) -> Iterator[None]:
        """As errors of other requests are, but that no prompt is refused here."""
        try:
            with translate_openai_errors(self.label, self.secrets):
                yield
        except PromptRefused as error:
            told = error.message.replace("a prompt", "a batch")
            raise QcrdError(told, code="teacher_refused") from error


def make_batch_client(
    name: str,
    teacher: TeacherConfig,
    notify: Notify,
    *,
    left_out: Iterable[str] = (),
    max_choices: int | None = None,
    memory: TeacherMemory = FORGETFUL,
) -> BatchClient:
    """`TeacherUnreachable` while the file with its key is away."""
    try:
        return BatchClient(
            name, teacher, notify, left_out=left_out, max_choices=max_choices, memory=memory
        )
    except ValueError as error:
        raise TeacherUnreachable(f"teacher {name}: {error}") from error


def _get_route(request: PromptRequest) -> str:
    return "/v1/chat/completions" if request.prompt.messages else "/v1/completions"


async def _split_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """At line feeds alone: a text in JSON may have other characters that count as line ends."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    yield rest


def _parse_line(line: bytes) -> Mapping[str, Any] | None:
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _require_batch(value: object, label: str) -> Batch:
    """The client reads whatever comes: a page of a proxy is a text for it."""
    if isinstance(value, Batch) and isinstance(getattr(value, "id", None), str):
        return value
    raise QcrdError(
        f"{label} answers with something else than a batch: no OpenAI-compatible server is at "
        "`url` in the setting QCRD_TEACHERS, or a proxy stands before it",
        code="teacher_refused",
    )
