"""llama.cpp, in the wheel `xllamacpp`, reading a GGUF file that was just written."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2

from qcrd.errors import Invalid

TIMEOUT_SECONDS = 600.0
"""Of one answer, on a slow machine."""


class LlamaCpp:
    """A model in llama.cpp, asked over its loopback port."""

    def __init__(self, address: str, key: str) -> None:
        self._http = httpx2.Client(
            base_url=address,
            headers={"authorization": f"Bearer {key}"},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )

    def tokenize(self, text: str) -> list[int]:
        """As it reads a prompt: with what its tokenizer puts around it, control tokens as such."""
        body = {"content": text, "add_special": True, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", body)["tokens"]
        return tokens

    def apply_template(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt of a chat by the file's own template."""
        return str(self._post("/apply-template", {"messages": list(messages)})["prompt"])

    def generate(
        self, prompt: Sequence[int], said: Sequence[int], *, max_new_tokens: int, end: int
    ) -> list[int]:
        """Greedy tokens behind a prompt and what was `said`; `end` closes those that came to an end
        of their own."""
        body = {
            "prompt": [*prompt, *said],
            "n_predict": max_new_tokens - len(said),
            "temperature": 0.0,
            "samplers": ["temperature"],
            "return_tokens": True,
            "cache_prompt": False,
        }
        answer = self._post("/completion", body)
        tokens: list[int] = answer["tokens"]
        ended = answer["stop_type"] == "eos" and tokens[-1:] != [end]
        return [*tokens, end] if ended else tokens

    def close(self) -> None:
        self._http.close()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self._http.post(path, json=body)
        answer: dict[str, Any] = response.json()
        if response.is_error:
            told = answer.get("error", {}).get("message", response.status_code)
            raise Invalid(f"--format: llama.cpp refuses the export: {told}", param="format")
        return answer


def is_installed() -> bool:
    """Whether an export can be checked here."""
    return find_spec("xllamacpp") is not None


@contextmanager
def open_llama_cpp(path: Path, *, context: int) -> Iterator[LlamaCpp]:
    """The model of `path` with room for `context` tokens. `Invalid` when llama.cpp cannot read
    it."""
    import xllamacpp

    key = secrets.token_urlsafe(24)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = 1
    params.n_ctx = context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.fit_params = False
    params.verbosity = -1
    params.api_keys = [key]
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise Invalid(
            f"--format: llama.cpp cannot read what was written: {error}",
            param="format",
            code="export_differs",
        ) from error
    client = LlamaCpp(server.listening_address, key)
    try:
        yield client
    finally:
        client.close()
        del server
