"""A server with OpenAI's routes for files and batches, which does what a test says.

Shapes and states are those of the types of openai 3.54.0 (`types/batch.py`, `types/file_object.py`,
`types/batch_create_params.py`) and of OpenAI's guide Batch; codes of a failed validation those of
stdapi-ai/stdapi.ai issue 240 and openai-python issue 2084; all read 2026-11-28. The lines of a
batch that was cancelled before they ran are taken to be as those of one that expired: not seen.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.fakes.providers import PROMPT_TOKENS, make_error
from tests.serving import BackgroundServer

JSON = dict[str, Any]
MAX_TASKS = 50_000
ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
FINAL = ("completed", "failed", "expired", "cancelled")
PATH = "/v1"
EXPIRED = "This request could not be executed before the completion window expired."
CANCELLED = "This request was not executed because the batch was cancelled."


@dataclass(frozen=True)
class Ending:
    """How a batch goes: `done` of its lines run, None: all. `errors` are of its validation, which
    then fails."""

    status: str = "completed"
    done: int | None = None
    errors: Sequence[JSON] = ()


@dataclass
class FakeBatch:
    id: str
    input_file_id: str
    endpoint: str
    metadata: Mapping[str, str]
    lines: list[JSON]
    ending: Ending
    status: str = "validating"
    errors: list[JSON] = field(default_factory=list)
    output: list[JSON] = field(default_factory=list)
    refused: list[JSON] = field(default_factory=list)
    output_file_id: str | None = None
    error_file_id: str | None = None
    has_run: bool = False

    def dump(self) -> JSON:
        counts = {"total": 0, "completed": 0, "failed": 0}
        if self.status != "validating":
            failed = sum(line["response"] is not None for line in self.refused)
            counts = {"total": len(self.lines), "completed": len(self.output), "failed": failed}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": 1_800_000_000,
            "request_counts": counts,
            "metadata": dict(self.metadata),
        }


def never_refuse(body: JSON) -> tuple[int, JSON] | None:
    return None


class FakeBatches:
    """`answer(prompt, number)` is the text of choice `number` of all so far; `end` says how each
    batch ends, `refuse` which of its requests are refused, `choices` how many `n` gives; `reasons`
    is the trace of each.

    A batch comes one state further each time that it is retrieved, unless it `stands`. `paid` are
    the tokens that are to be paid, `ran` how often each line ran. `answers_lost` batches are made
    and the request for them answered by a proxy that gave up; while `held` is there and not set, it
    is not answered at all. `on_upload` is called with each file, before that is answered.
    """

    def __init__(
        self,
        answer: Callable[[str, int], str],
        *,
        key: str = "",
        end: Callable[[JSON], Ending] = lambda batch: Ending(),
        refuse: Callable[[JSON], tuple[int, JSON] | None] = never_refuse,
        finish_reason: Callable[[int], str] = lambda number: "stop",
        choices: int = 128,
        cached: int = 0,
        reasons: str = "",
        has_usage: bool = True,
        has_routes: bool = True,
    ) -> None:
        self.answer, self.key, self.end, self.refuse = answer, key, end, refuse
        self.finish_reason, self.choices, self.cached = finish_reason, choices, cached
        self.reasons, self.has_usage, self.has_routes = reasons, has_usage, has_routes
        self.stands = False
        self.answers_lost = 0
        self.refuses_creation: tuple[int, JSON] | None = None
        self.held: threading.Event | None = None
        self.on_upload: Callable[[bytes], None] = lambda file: None
        self.files: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.lost_files: set[str] = set()
        self.batches: list[FakeBatch] = []
        self.ran: Counter[str] = Counter()
        self.choices_given = self.prompt_tokens = self.completion_tokens = 0
        self.seen: list[str] = []
        """What was asked for, as `GET /v1/batches`."""
        self._server = BackgroundServer(self._app())
        self.port = self._server.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    @property
    def bodies(self) -> list[JSON]:
        """Of all requests in all batches, in the order in which they were sent."""
        return [line["body"] for batch in self.batches for line in batch.lines]

    def close(self) -> None:
        if self.held is not None:
            self.held.set()
        self._server.close()

    def _app(self) -> Starlette:
        routes = [Route(f"{PATH}/models", self._list_models)]
        if self.has_routes:
            routes += [
                Route(f"{PATH}/files", self._upload, methods=["POST"]),
                Route(f"{PATH}/files/{{id}}", self._delete_file, methods=["DELETE"]),
                Route(f"{PATH}/files/{{id}}/content", self._read_file),
                Route(f"{PATH}/batches", self._create, methods=["POST"]),
                Route(f"{PATH}/batches", self._list),
                Route(f"{PATH}/batches/{{id}}", self._retrieve),
                Route(f"{PATH}/batches/{{id}}/cancel", self._cancel, methods=["POST"]),
            ]
        return Starlette(routes=routes)

    def _check_access(self, request: Request) -> Response | None:
        self.seen.append(f"{request.method} {request.url.path}")
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key and sent != self.key:
            told = make_error(f"Incorrect API key provided: {sent}", code="invalid_api_key")
            return JSONResponse(told, 401)
        return None

    async def _list_models(self, request: Request) -> Response:
        return self._check_access(request) or JSONResponse(
            {"object": "list", "data": [{"id": "m", "object": "model"}]}
        )

    async def _upload(self, request: Request) -> Response:
        if (refused := self._check_access(request)) is not None:
            return refused
        form = await request.form()
        file, purpose = form["file"], form["purpose"]
        assert not isinstance(file, str)
        if not str(file.filename).endswith(".jsonl"):
            told = "Invalid file format for Batch API. Must be .jsonl"
            return JSONResponse(make_error(told), 400)
        content, file_id = await file.read(), f"file-{len(self.files) + 1}"
        self.files[file_id] = content
        await anyio.to_thread.run_sync(self.on_upload, content)
        return JSONResponse(
            {
                "id": file_id,
                "object": "file",
                "bytes": len(content),
                "created_at": 1_800_000_000,
                "filename": file.filename,
                "purpose": purpose,
                "status": "processed",
            }
        )

    async def _delete_file(self, request: Request) -> Response:
        if (refused := self._check_access(request)) is not None:
            return refused
        file_id = request.path_params["id"]
        self.deleted.append(file_id)
        self.files.pop(file_id, None)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    async def _read_file(self, request: Request) -> Response:
        if (refused := self._check_access(request)) is not None:
            return refused
        file_id = request.path_params["id"]
        content = self.files.get(file_id)
        if content is None or file_id in self.lost_files:
            return JSONResponse(make_error("No such File object"), 404)
        return Response(content, media_type="application/octet-stream")

    async def _create(self, request: Request) -> Response:
        if (refused := self._check_access(request)) is not None:
            return refused
        if self.refuses_creation is not None:
            return JSONResponse(self.refuses_creation[1], self.refuses_creation[0])
        asked = await request.json()
        if asked["endpoint"] not in ENDPOINTS or asked["completion_window"] != "24h":
            return JSONResponse(make_error("Invalid value"), 400)
        content = self.files.get(asked["input_file_id"])
        if content is None:
            return JSONResponse(make_error("No such File object"), 400)
        lines, errors = validate_lines(content, asked["endpoint"])
        ending = self.end(asked)
        batch = FakeBatch(
            id=f"batch_{len(self.batches) + 1}",
            input_file_id=asked["input_file_id"],
            endpoint=asked["endpoint"],
            metadata=asked.get("metadata") or {},
            lines=lines,
            ending=Ending("failed", 0, errors) if errors else ending,
        )
        self.batches.append(batch)
        if self.held is not None:
            await anyio.to_thread.run_sync(self.held.wait, abandon_on_cancel=True)
        if self.answers_lost:
            self.answers_lost -= 1
            return Response("upstream timed out", 504)
        return JSONResponse(batch.dump())

    async def _list(self, request: Request) -> Response:
        """The newest first, `limit` of them after the one named."""
        if (refused := self._check_access(request)) is not None:
            return refused
        newest = [batch.dump() for batch in reversed(self.batches)]
        after, limit = request.query_params.get("after"), int(request.query_params.get("limit", 20))
        if after is not None:
            newest = newest[[each["id"] for each in newest].index(after) + 1 :]
        page = newest[:limit]
        return JSONResponse(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": len(newest) > limit,
            }
        )

    async def _retrieve(self, request: Request) -> Response:
        if (refused := self._check_access(request)) is not None:
            return refused
        batch = self._find(request)
        if batch is None:
            return JSONResponse(make_error("No batch found"), 404)
        if not self.stands or batch.status == "cancelling":
            self._step(batch)
        return JSONResponse(batch.dump())

    async def _cancel(self, request: Request) -> Response:
        if (refused := self._check_access(request)) is not None:
            return refused
        batch = self._find(request)
        if batch is None:
            return JSONResponse(make_error("No batch found"), 404)
        if batch.status in FINAL:
            told = f"Cannot cancel a batch with status '{batch.status}'."
            return JSONResponse(make_error(told), 409)
        batch.status = "cancelling"
        batch.ending = Ending("cancelled", batch.ending.done or 0)
        return JSONResponse(batch.dump())

    def _find(self, request: Request) -> FakeBatch | None:
        return next((b for b in self.batches if b.id == request.path_params["id"]), None)

    def _step(self, batch: FakeBatch) -> None:
        match batch.status:
            case "validating" if batch.ending.status == "failed":
                batch.status, batch.errors = "failed", list(batch.ending.errors)
            case "validating":
                batch.status = "in_progress"
            case "in_progress":
                self._run(batch)
                batch.status = "finalizing"
            case "finalizing" | "cancelling":
                self._run(batch)
                self._publish(batch)
                batch.status = batch.ending.status

    def _run(self, batch: FakeBatch) -> None:
        if batch.has_run:
            return
        batch.has_run = True
        count = len(batch.lines) if batch.ending.done is None else batch.ending.done
        for line in batch.lines[:count]:
            self._run_line(batch, line)
        code, words = "batch_expired", EXPIRED
        if batch.ending.status == "cancelled":
            code, words = "batch_cancelled", CANCELLED
        for line in batch.lines[count:]:
            error = {"code": code, "message": words}
            batch.refused.append(_make_line(line, None, error))

    def _run_line(self, batch: FakeBatch, line: JSON) -> None:
        body = line["body"]
        if (refusal := self.refuse(body)) is not None:
            response = {"status_code": refusal[0], "request_id": "req_1", "body": refusal[1]}
            batch.refused.append(_make_line(line, response, None))
            return
        self.ran[line["custom_id"]] += 1
        response = {"status_code": 200, "request_id": "req_1", "body": self._complete(body)}
        batch.output.append(_make_line(line, response, None))

    def _complete(self, body: JSON) -> JSON:
        chat = "messages" in body
        prompt = (
            "\n".join(str(message["content"]) for message in body["messages"])
            if chat
            else body["prompt"]
        )
        choices, written = [], 0
        for index in range(min(body.get("n", 1), self.choices)):
            self.choices_given += 1
            text = self.answer(prompt, self.choices_given)
            written += len(text.split(" "))
            content: JSON = {"text": text}
            if chat:
                message = {"role": "assistant", "content": text, "refusal": None}
                reasoning = {"reasoning_content": self.reasons} if self.reasons else {}
                content = {"message": message | reasoning}
            reason = self.finish_reason(self.choices_given)
            choices.append({"index": index, "finish_reason": reason, "logprobs": None, **content})
        self.prompt_tokens += PROMPT_TOKENS
        self.completion_tokens += written
        usage = {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": written,
            "total_tokens": PROMPT_TOKENS + written,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }
        return {
            "id": f"chatcmpl-{self.choices_given}",
            "object": "chat.completion" if chat else "text_completion",
            "created": 1_800_000_000,
            "model": "m-2026-11-28",
            "choices": choices,
            **({"usage": usage} if self.has_usage else {}),
        }

    def _publish(self, batch: FakeBatch) -> None:
        """In another order than that of the input."""
        if batch.output:
            batch.output_file_id = f"file-output-{batch.id}"
            self.files[batch.output_file_id] = _dump_lines(batch.output[::-1])
        if batch.refused:
            batch.error_file_id = f"file-error-{batch.id}"
            self.files[batch.error_file_id] = _dump_lines(batch.refused[::-1])


def validate_lines(content: bytes, endpoint: str) -> tuple[list[JSON], list[JSON]]:
    """The requests of an input file, and what is wrong with it."""
    lines, errors = list[JSON](), list[JSON]()

    def note(code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        errors.append({"code": code, "message": message, "line": line, "param": param})

    for number, text in enumerate(content.split(b"\n")[:-1], 1):
        try:
            line = json.loads(text)
        except ValueError:
            note("invalid_json_line", "This line is not parseable as valid JSON.", number)
            continue
        lines.append(line)
        if line.get("url") != endpoint or line.get("method") != "POST":
            note("url_mismatch", "The URL does not match the batch's endpoint.", number, "url")
    ids = Counter(line.get("custom_id") for line in lines)
    if any(count > 1 or not name for name, count in ids.items()):
        note("duplicate_custom_id", "The custom_id of a request is not unique.", None, "custom_id")
    if len({line.get("body", {}).get("model") for line in lines}) > 1:
        note("model_mismatch", "All requests must name the same model.", None, "body.model")
    if not lines:
        note("empty_file", "The input file has no requests.")
    if len(lines) > MAX_TASKS:
        note("too_many_tasks", f"The batch has more than {MAX_TASKS} requests.")
    return lines, errors


def _make_line(line: JSON, response: JSON | None, error: JSON | None) -> JSON:
    return {
        "id": f"batch_req_{line['custom_id']}",
        "custom_id": line["custom_id"],
        "response": response,
        "error": error,
    }


def _dump_lines(lines: Sequence[JSON]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
