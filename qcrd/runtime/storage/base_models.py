"""Find a base model by name: in the models folder, among published models, or on the hub."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from qcrd.errors import Invalid, NotFound
from qcrd.runtime import keys
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.base_model_checks import inspect_base_model
from qcrd.runtime.storage.hub import ModelHub
from qcrd.runtime.storage.store import Store

MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""`name` or `owner/name`, without a path out of the models folder."""

UNPACKED_TEACHER = "SmolLM2-135M-Instruct"
"""What `qcrd models unpack smollm2` makes of the default teacher's file."""

DOWNLOAD_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""Weights as safetensors only: a pickle can run code."""

HALF_FETCHED_PREFIX = ".fetching-"
HALF_FETCHED_SECONDS = 86400.0

HUB = ModelHub()


def find_base_model(
    name: str,
    settings: ModelSettings,
    store: Store,
    *,
    param: str = "model",
    hub: ModelHub = HUB,
) -> Path:
    """The folder of base model `name`, downloaded on first use.

    `Invalid` for a malformed name and for files that cannot be used, `NotFound` (listing the
    available ones) for an unknown model, `Transient` while the hub is away.
    """
    if not MODEL_NAME.fullmatch(name) or ".." in name:
        raise Invalid(f"`{param}`: {name[:80]!r} is no model name", param=param)
    folder = settings.models_dir / name
    if (folder / "config.json").is_file():
        return check_folder(name, folder, param)
    if keys.ID_PATTERN.fullmatch(name):
        return get_published_model(name, store, param)
    return check_folder(name, _download_from_hub(name, settings, param, hub), param)


def check_folder(name: str, folder: Path, param: str) -> Path:
    """`folder`, that of base model `name`; `Invalid` where its files cannot be trained from."""
    if problem := inspect_base_model(folder).problem:
        raise make_problem_error(name, problem, param)
    return folder


def make_problem_error(name: str, problem: str, param: str) -> Invalid:
    """The error about a base model whose files have a `problem`."""
    return Invalid(f"`{param}`: {name!r} {problem}", param=param, code="unusable_model")


def list_local_models(settings: ModelSettings) -> list[str]:
    """Names of the base models in the models folder, `name` or `owner/name`. A folder inside a
    model, such as a sentence encoder's `1_Pooling`, is a part of it."""
    folder = settings.models_dir
    found = {
        path.parent.relative_to(folder).as_posix()
        for pattern in ("*/config.json", "*/*/config.json")
        for path in folder.glob(pattern)
    }
    return sorted(name for name in found if "/" not in name or name.split("/")[0] not in found)


def get_published_model(model_id: str, store: Store, param: str) -> Path:
    """The folder of a published student, downloaded on first use. `NotFound`.

    It is cached in the temporary folder, as the models folder may be part of a read-only image.
    """
    folder = Path(tempfile.gettempdir()) / "qcrd-models" / model_id
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_half_fetched(folder.parent, time.time())
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=HALF_FETCHED_PREFIX) as scratch:
        download_published_model(model_id, store, Path(scratch) / "model", param)
        (Path(scratch) / "model").rename(folder)
    return folder


def remove_half_fetched(folder: Path, now: float) -> None:
    """Remove the folders of downloads whose process was killed: nothing in them was written for a
    day, longer than any file takes."""
    for scratch in folder.glob(f"{HALF_FETCHED_PREFIX}*"):
        with suppress(OSError):  # another process removes it too
            newest = max(path.stat().st_mtime for path in (scratch, *scratch.rglob("*")))
            if now - newest > HALF_FETCHED_SECONDS:
                shutil.rmtree(scratch)


def download_published_model(model_id: str, store: Store, folder: Path, param: str) -> None:
    """Download every file of a published student into `folder`. `NotFound`."""
    prefix = keys.model_prefix(model_id)
    names = [key.removeprefix(prefix) for key in store.list(prefix)]
    if keys.model_manifest_key(model_id).removeprefix(prefix) not in names:
        raise NotFound(f"`{param}`: there is no published model {model_id}", param=param)
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.open(prefix + name) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)


def _download_from_hub(name: str, settings: ModelSettings, param: str, hub: ModelHub) -> Path:
    try:
        return hub.download_snapshot(name, DOWNLOAD_PATTERNS)
    except ImportError:  # not every image has the hub's client
        raise _model_not_found(name, settings, param, "the hub is not asked here") from None
    except NotFound as error:
        raise _model_not_found(name, settings, param, error.message) from error


def _model_not_found(name: str, settings: ModelSettings, param: str, reason: str) -> NotFound:
    available = ", ".join(list_local_models(settings)) or "none"
    return NotFound(
        f"`{param}`: there is no model {name!r}. In the models folder: {available}; {reason}. Put "
        "its folder there, or name one that the hub has",
        param=param,
        code="model_not_found",
    )
