"""The folders of models on this machine: of bases, and of a student."""

from __future__ import annotations

from pathlib import Path

from qcrd.cli.connect import connect_gateway
from qcrd.cli.output.downloads import download_with_bars
from qcrd.cli.settings import CliSettings
from qcrd.cli.stack.home import StackHome
from qcrd.errors import Invalid
from qcrd.records.students.prompt_format import PROMPT_FORMAT_FILE
from qcrd.runtime.settings import load_settings


def find_bases_folder() -> Path:
    """Where bases are looked for by their names: QCRD_MODELS_DIR, else the embedded stack's."""
    settings = load_settings(CliSettings)
    return settings.models_dir or StackHome(settings.home).models


def resolve_model_folder(model: str, api: str | None) -> Path:
    """The model's local folder; a published model is downloaded once and cached."""
    if Path(model).is_dir():
        return Path(model)
    if not model.startswith("model-") or "/" in model:
        raise Invalid(
            f"MODEL: {model!r} is neither a folder nor a model id: see `qcrd models list`"
        )
    cached = StackHome(load_settings(CliSettings).home).cache / "models" / model
    if not (cached / PROMPT_FORMAT_FILE).exists():
        download_with_bars(connect_gateway(api), model, cached)
    return cached
