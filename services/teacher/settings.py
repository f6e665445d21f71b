"""The teacher's environment. Names are TGI's where TGI has one, `TEACHER_…` where it has none."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from qcrd.runtime.settings import EnvironmentSettings


class ServerSettings(EnvironmentSettings):
    """Address and limits of the server."""

    teacher_host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    api_key: SecretStr | None = None
    max_concurrent_requests: int = Field(128, ge=1)
    max_best_of: int = Field(2, ge=1)
    max_stop_sequences: int = Field(4, ge=0)
    max_top_n_tokens: int = Field(5, ge=0)
    max_client_batch_size: int = Field(4, ge=1)
    payload_limit: int = Field(2_000_000, ge=1)  # bytes; TGI's default
    disable_grammar_support: bool = False
    # One origin, or several with commas between; any when empty, as in TGI.
    cors_allow_origin: str | None = None
    # Follow TGI exactly, quirks included; without it the differences of docs/teacher.md apply.
    tgi_strict: bool = False
    # What `return_full_text: null` means on POST /; TGI decides by the model's tag on the hub.
    return_full_text: bool = False
    # Seconds without a first token after which a request gets a 429; TGI lets it wait.
    teacher_queue_seconds: float = Field(600, gt=0)
    # /health fails when no request gets on for so many seconds.
    teacher_stall_seconds: float = Field(30, gt=0)
    compute_type: str = "cpu"
    # TGI's launcher allows running requests this long after SIGTERM, in seconds.
    graceful_termination_timeout: int = Field(90, ge=0)


class EngineSettings(EnvironmentSettings, protected_namespaces=()):
    """The model and the engine that runs it.

    `max_total_tokens` and `max_input_tokens` of None mean what the model and engine allow.
    """

    model_id: str = "smollm2"
    # A branch, tag or commit of a hub id.
    revision: str | None = None
    teacher_engine: Literal["auto", "gguf", "local", "upstream"] = "auto"
    max_input_tokens: int | None = Field(None, ge=1)
    max_total_tokens: int | None = Field(None, ge=2)
    # One: llama.cpp's threads spin while they wait; two on two busy cores run at a tenth of it.
    teacher_threads: int = Field(1, ge=1)
    # Copies of a model that share out the slots: they use more cores and do not wait for each
    # other. The weights are in memory once.
    teacher_replicas: int = Field(1, ge=1)
    teacher_slots: int = Field(32, ge=1)
    # Tokens that running requests may reach together; what the slots hold when empty.
    max_batch_total_tokens: int | None = Field(None, ge=1)
    # Prompt tokens the local engine reads between two steps of the requests that already run.
    max_batch_prefill_tokens: int = Field(2048, ge=1)
    teacher_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    # `name=folder`, or folders alone, with commas between.
    lora_adapters: str = ""
    teacher_upstream_url: str | None = None
    teacher_upstream_key: SecretStr | None = None
    # Attempts of one request, as long as none of its response has arrived.
    teacher_upstream_attempts: int = Field(4, ge=1)
    # Seconds an upstream may send nothing; time in its queue counts.
    teacher_upstream_timeout: float = Field(300, gt=0)
    # The tokenizer of the upstream's model, a tokenizer.json or its folder, where the upstream
    # itself has no /tokenize; without either, tokens that it does not count are estimated.
    teacher_upstream_tokenizer: str | None = None
