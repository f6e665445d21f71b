"""People's edits of a rationale set: each an object of its own, folded by whoever reads the set.

The store cannot append or compare-and-set, so nothing is ever written twice: an edit gets a key
that is new, and two at once are both there. Its number is one above those of the item's edits that
were there before it, so an edit made in knowledge of another one comes after it on any clock.
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

ITEM = re.compile(r"([0-9a-f]{24})-([pn])(0|[1-9][0-9]{0,3})")
POLARITIES = {"p": Polarity.POSITIVE, "n": Polarity.NEGATIVE}


def item_id(question_id: str, polarity: Polarity, place: int) -> str:
    """`place` counts the question's rationales of this polarity from 0. A rationale's own id will
    not do: two samples with the same text share it."""
    return f"{question_id}-{polarity.value[0]}{place}"


def parse_item_id(value: str, param: str) -> tuple[str, Polarity, int]:
    """Question, polarity and place. `Invalid` when it cannot be an item's id."""
    found = ITEM.fullmatch(value)
    if not found:
        raise Invalid(
            f"`{param}`: {value[:80]!r} is not the id of an item", param=param, code="invalid_id"
        )
    return found[1], POLARITIES[found[2]], int(found[3])


def add(store: Store, set_id: str, edit: RationaleEdit) -> RationaleEdit:
    """Keep `edit` under a new id, which it comes back with."""
    prefix = keys.rationale_item_edits_prefix(set_id, edit.item_id)
    seen = store.list(prefix)
    number = int(seen[-1].removeprefix(prefix).split("-")[0]) + 1 if seen else 1
    kept = edit.model_copy(update={"id": f"{number:08d}-{secrets.token_hex(6)}"})
    write_record(store, f"{prefix}{kept.id}.json", kept)
    return kept


def read_all(
    store: Store, set_id: str, known: Mapping[str, RationaleEdit] | None = None
) -> dict[str, RationaleEdit]:
    """Every edit of the set by its key, item by item and in order; `known` ones are not read
    again."""
    before = known or {}
    listed = store.list(keys.rationale_edits_prefix(set_id))
    return {key: before.get(key) or read_record(store, key, RationaleEdit) for key in listed}


def fold(edits: Iterable[RationaleEdit]) -> dict[str, Correction]:
    """By item id; of each field the last value that was given."""
    folded: dict[str, Correction] = {}
    for edit in edits:
        before = folded.get(edit.item_id, Correction())
        given = edit.model_dump(include={"excluded", "text", "answer"}, exclude_none=True)
        folded[edit.item_id] = before.model_copy(update={**given, "edits": before.edits + 1})
    return folded


def corrected(rationale: Rationale, correction: Correction | None) -> Rationale:
    """With another text it is another rationale, whose score the old one's is not."""
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


def rationales(item: RationaleItem) -> Iterable[tuple[str, Polarity, Rationale]]:
    """The question's rationales in the set's order, each with its item id."""
    for polarity, said in (
        (Polarity.POSITIVE, item.positives),
        (Polarity.NEGATIVE, item.negatives),
    ):
        for place, rationale in enumerate(said):
            yield item_id(item.question.id, polarity, place), polarity, rationale


def applied(item: RationaleItem, corrections: Mapping[str, Correction]) -> RationaleItem:
    """What is left to learn from; the vote and each rationale's polarity stay what they were."""
    left: dict[Polarity, list[Rationale]] = {polarity: [] for polarity in Polarity}
    for name, polarity, rationale in rationales(item):
        correction = corrections.get(name)
        if correction is None or not correction.excluded:
            left[polarity].append(corrected(rationale, correction))
    return item.model_copy(
        update={
            "positives": tuple(left[Polarity.POSITIVE]),
            "negatives": tuple(left[Polarity.NEGATIVE]),
        }
    )


# --- revisions ---------------------------------------------------------------------------------


def revision(edits: Mapping[str, RationaleEdit]) -> Revision:
    """Of edits as `read_all` gives them."""
    return Revision(id=keys.digest(*edits), edits=tuple(edits.values()))


def pin(store: Store, set_id: str) -> Revision:
    """The set's edits of this moment, kept so that `pinned` finds them whatever comes after."""
    now = revision(read_all(store, set_id))
    write_record(store, keys.rationale_revision_key(set_id, now.id), now)
    return now


def pinned(store: Store, set_id: str, revision_id: str) -> Revision:
    try:
        return read_record(store, keys.rationale_revision_key(set_id, revision_id), Revision)
    except NotFound as error:
        raise Invalid(
            f"revision {revision_id} of rationale set {set_id}, which this training began with, is "
            "gone from the store: create the job again",
            code="no_revision",
        ) from error
