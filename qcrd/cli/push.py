"""A student on the model hub: its folder, with a card that the hub can read."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from qcrd.errors import Invalid
from qcrd.runtime.storage.hub_upload import upload_model_folder

CARD_FILE = "README.md"
FENCE = "---\n"


def push_model(
    folder: Path,
    repository: str,
    *,
    base_model: str | None,
    datasets: Sequence[str],
    private: bool,
) -> str:
    """Commit the student of `folder` to `repository`; the commit's address. `base_model` and
    `datasets` are their names on the hub, where the card has others or none."""
    metadata, body = read_card(folder)
    if base_model is not None:
        metadata["base_model"] = base_model
    if datasets:
        metadata["datasets"] = list(datasets)
    with tempfile.TemporaryDirectory(prefix="qcrd-push-") as scratch:
        copy = Path(scratch) / "model"
        # Links: weights may be large, and only the card is another.
        shutil.copytree(folder, copy, copy_function=_link)
        (copy / CARD_FILE).unlink(missing_ok=True)
        (copy / CARD_FILE).write_text(render_card(metadata, body), encoding="utf-8")
        message = f"Student of {metadata.get('base_model', 'qcrd')}, by qcrd"
        return upload_model_folder(copy, repository, message=message, private=private)


def _link(source: str, target: str) -> None:
    Path(target).symlink_to(Path(source).resolve())


def read_card(folder: Path) -> tuple[dict[str, Any], str]:
    """The metadata of the folder's card with what the hub needs besides, and the card's text."""
    path = folder / CARD_FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else f"# {folder.name}\n"
    metadata: dict[str, Any] = {}
    if text.startswith(FENCE):
        head, _, text = text.removeprefix(FENCE).partition(f"\n{FENCE}")
        try:
            metadata = yaml.safe_load(head) or {}
        except yaml.YAMLError as error:
            raise Invalid(f"MODEL: the head of {path} is not YAML: {error}") from error
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Invalid(f"MODEL: {folder} is no student: its config.json: {error}") from error
    metadata.setdefault("library_name", "transformers")
    is_seq2seq = config.get("is_encoder_decoder")
    tag = "text2text-generation" if is_seq2seq else "text-generation"
    metadata.setdefault("pipeline_tag", tag)
    return metadata, text


def render_card(metadata: dict[str, Any], body: str) -> str:
    """A card as the hub reads it."""
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"{FENCE}{head}{FENCE}{body}"
