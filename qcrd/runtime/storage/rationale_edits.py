"""Edits of a rationale set: each is an object of its own, and readers fold them.

The store cannot append or compare-and-set, so every edit gets a new key and concurrent edits are
both kept. An edit's number is one above those of the item's existing edits, so an edit sorts after
those its author could see, whatever the clocks.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping

from qcrd.errors import Invalid, NotFound
from qcrd.records.rationale_annotations import Correction, Polarity, RationaleEdit, Revision
from qcrd.records.rationales import Rationale, RationaleItem
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, read_record, write_record

ITEM_ID = re.compile(r"([0-9a-f]{24})-([pn])(0|[1-9][0-9]{0,3})")
POLARITIES = {"p": Polarity.POSITIVE, "n": Polarity.NEGATIVE}


def make_item_id(question_id: str, polarity: Polarity, index: int) -> str:
    """`index` counts the question's rationales of this polarity from 0. A rationale's id is no item
    id, as two samples with the same text share it."""
    return f"{question_id}-{polarity.value[0]}{index}"


def parse_item_id(value: str, param: str) -> tuple[str, Polarity, int]:
    """Question id, polarity and index. `Invalid` for a malformed id."""
    match = ITEM_ID.fullmatch(value)
    if not match:
        raise Invalid(
            f"`{param}`: {value[:80]!r} is not the id of an item", param=param, code="invalid_id"
        )
    return match[1], POLARITIES[match[2]], int(match[3])


def add_edit(store: Store, set_id: str, edit: RationaleEdit) -> RationaleEdit:
    """Save `edit` under a new id and return it with that id."""
    prefix = keys.rationale_item_edits_prefix(set_id, edit.item_id)
    existing_keys = store.list(prefix)
    number = int(existing_keys[-1].removeprefix(prefix).split("-")[0]) + 1 if existing_keys else 1
    saved = edit.model_copy(update={"id": f"{number:08d}-{secrets.token_hex(6)}"})
    write_record(store, f"{prefix}{saved.id}.json", saved)
    return saved


def read_edits(
    store: Store, set_id: str, cached: Mapping[str, RationaleEdit] | None = None
) -> dict[str, RationaleEdit]:
    """Every edit of the set by its key, item by item and in order; `cached` ones are not read
    again."""
    cached_edits = cached or {}
    edit_keys = store.list(keys.rationale_edits_prefix(set_id))
    return {
        key: cached_edits.get(key) or read_record(store, key, RationaleEdit) for key in edit_keys
    }


def fold_edits(edits: Iterable[RationaleEdit]) -> dict[str, Correction]:
    """Corrections by item id, with the latest value of each field."""
    folded: dict[str, Correction] = {}
    for edit in edits:
        before = folded.get(edit.item_id, Correction())
        changes = edit.model_dump(include={"excluded", "text", "answer"}, exclude_none=True)
        folded[edit.item_id] = before.model_copy(update={**changes, "edits": before.edits + 1})
    return folded


def apply_correction(rationale: Rationale, correction: Correction | None) -> Rationale:
    """The corrected rationale. A new text gets a new id, as the old text's score does not apply."""
    if correction is None:
        return rationale
    changes: dict[str, str] = {}
    if correction.text is not None and correction.text != rationale.text:
        changes = {
            "text": correction.text,
            "id": keys.digest(rationale.question_id, correction.text),
        }
    if correction.answer is not None:
        changes["answer"] = correction.answer
    return rationale.model_copy(update=changes)


def iter_rationales(item: RationaleItem) -> Iterable[tuple[str, Polarity, Rationale]]:
    """The question's rationales in the set's order, each with its item id."""
    for polarity, group in (
        (Polarity.POSITIVE, item.positives),
        (Polarity.NEGATIVE, item.negatives),
    ):
        for index, rationale in enumerate(group):
            yield make_item_id(item.question.id, polarity, index), polarity, rationale


def apply_corrections(item: RationaleItem, corrections: Mapping[str, Correction]) -> RationaleItem:
    """`item` with excluded rationales removed and others corrected; vote and polarity stay."""
    kept: dict[Polarity, list[Rationale]] = {polarity: [] for polarity in Polarity}
    for name, polarity, rationale in iter_rationales(item):
        correction = corrections.get(name)
        if correction is None or not correction.excluded:
            kept[polarity].append(apply_correction(rationale, correction))
    return item.model_copy(
        update={
            "positives": tuple(kept[Polarity.POSITIVE]),
            "negatives": tuple(kept[Polarity.NEGATIVE]),
        }
    )


# --- revisions ---------------------------------------------------------------------------------


def make_revision(edits: Mapping[str, RationaleEdit]) -> Revision:
    """The revision of edits as `read_edits` returns them."""
    return Revision(id=keys.digest(*edits), edits=tuple(edits.values()))


def pin_revision(store: Store, set_id: str) -> Revision:
    """Save the set's current edits as a revision, for `load_revision`."""
    current = make_revision(read_edits(store, set_id))
    write_record(store, keys.rationale_revision_key(set_id, current.id), current)
    return current


def load_revision(store: Store, set_id: str, revision_id: str) -> Revision:
    try:
        return read_record(store, keys.rationale_revision_key(set_id, revision_id), Revision)
    except NotFound as error:
        raise Invalid(
            f"revision {revision_id} of rationale set {set_id}, which this training began with, is "
            "gone from the store: create the job again",
            code="no_revision",
        ) from error
