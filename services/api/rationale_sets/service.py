"""Rationale sets for the routes: pages of items, edits, export.

What never changes (indexes, scores, edits) stays in memory up to a bound, so that a page costs a
few small reads and the shards that hold its items, wherever in the set it lies.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from qcrd.errors import Invalid, NotFound
from qcrd.records.api_keys import ApiKey
from qcrd.records.rationale_annotations import RationaleEdit
from qcrd.records.rationales import RationaleManifest
from qcrd.runtime import keys
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.store import Store, read_record
from services.api.http.ownership import check_owner, get_job_owner
from services.api.rationale_sets import export as set_export
from services.api.rationale_sets import index as set_index
from services.api.rationale_sets import items as set_items
from services.api.rationale_sets import schemas
from services.api.rationale_sets import scores as set_scores
from services.api.rationale_sets.cache import Recent
from services.api.rationale_sets.filtering import Edits, View
from services.api.rationale_sets.index import Index
from services.api.rationale_sets.schemas import (
    EditRequest,
    ExportQuery,
    ItemPage,
    ItemQuery,
    ItemWithHistory,
    SetBody,
    SetPage,
)
from services.api.rationale_sets.scores import SetScores

INDEX_BYTES, SCORE_BYTES, EDIT_BYTES = 24 << 20, 16 << 20, 8 << 20
"""100,000 items in 20,000 questions have an index of 1.4 MB and scores of 1.6 MB."""


class RationaleSets:
    """Of one process; safe to share between its threads."""

    def __init__(self, store: Store, jobs: JobStore) -> None:
        """`jobs` tell whose a set is: its job's owner's."""
        self._store = store
        self._jobs = jobs
        self._indexes: Recent[Index] = Recent(INDEX_BYTES, lambda index: index.nbytes)
        self._scores: Recent[SetScores] = Recent(SCORE_BYTES, lambda scores: scores.nbytes)
        self._edits: Recent[Edits] = Recent(EDIT_BYTES, lambda found: found.nbytes)
        self._created: dict[str, float] = {}
        """Set id -> when; about 100 bytes each."""

    def page(self, after: str | None, limit: int) -> SetPage:
        """Newest first. Each set's age is read once by this process, then only listed."""
        ids = self._newest_first()
        if after is not None:
            if after not in ids:
                raise Invalid(f"`after`: there is no rationale set {after[:80]!r}", param="after")
            ids = ids[ids.index(after) + 1 :]
        data = [schemas.summary(self._manifest(set_id)) for set_id in ids[:limit]]
        return SetPage(
            data=data,
            has_more=len(ids) > limit,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
        )

    def describe(self, set_id: str) -> SetBody:
        view = self._view(set_id, None)
        revision = rationale_edits.make_revision(view.edits.by_key).id
        return schemas.body(view, revision, set_scores.all_of(self._store, set_id))

    def items(self, set_id: str, query: ItemQuery) -> ItemPage:
        query.check()
        view = self._view(set_id, query.judge)
        rows = view.matching(query)
        if query.after is not None:
            rows = rows[rows > view.index.row(query.after, "after")]
        shown = set_items.near(view, rows[: query.limit])
        data = list(set_items.read(self._store, view, shown))
        return ItemPage(
            data=data,
            has_more=len(rows) > len(shown),
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            judge=schemas.judge(view.judge.judged) if view.judge else None,
        )

    def item(self, set_id: str, item_id: str, judge: str | None = None) -> ItemWithHistory:
        view = self._view(set_id, judge)
        row = view.index.row(item_id)
        (found,) = set_items.read(self._store, view, np.array([row]))
        history = [e for e in view.edits.by_key.values() if e.item_id == item_id]
        return ItemWithHistory(**found.model_dump(), history=[schemas.edit(e) for e in history])

    def edit(
        self, set_id: str, item_id: str, wanted: EditRequest, caller: ApiKey
    ) -> ItemWithHistory:
        """Keep the edit, and show the item with it; nothing that was there is written over."""
        changes = wanted.model_dump(exclude_none=True)
        if not changes.keys() - {"reason"}:
            raise Invalid(
                "nothing to change: give `excluded`, `text` or `answer`", code="empty_edit"
            )
        manifest = self._manifest(set_id)
        check_owner(f"rationale set {set_id}", get_job_owner(self._jobs, manifest.job_id), caller)
        self._index(manifest).row(item_id)
        made = RationaleEdit(id="", item_id=item_id, by=caller.name, at=time.time(), **changes)
        rationale_edits.add_edit(self._store, set_id, made)
        return self.item(set_id, item_id)

    def export(self, set_id: str, query: ExportQuery) -> Iterator[bytes]:
        """JSON lines; what can be refused is refused before the first of them."""
        query.check()
        view = self._view(set_id, query.judge)
        said = set_items.read(self._store, view, view.matching(query))
        write = set_export.questions if query.format == "questions" else set_export.items
        return set_export.chunks(write(said))

    # --- what lies behind ----------------------------------------------------------------------

    def _view(self, set_id: str, judge: str | None) -> View:
        manifest = self._manifest(set_id)
        judged = set_scores.find(self._store, manifest, judge)
        scores = None
        if judged is not None:
            key = (set_id, judged.job_id, judged.created_at)
            scores = self._scores.find(key, lambda: set_scores.load(self._store, judged))
        return View(manifest, self._index(manifest), self._edits_of(set_id), scores)

    def _manifest(self, set_id: str) -> RationaleManifest:
        key = keys.rationale_manifest_key(keys.validate_id(set_id, "set_id"))
        try:
            return read_record(self._store, key, RationaleManifest)
        except NotFound as error:
            raise NotFound(
                f"there is no rationale set {set_id}", param="set_id", code="set_not_found"
            ) from error

    def _index(self, manifest: RationaleManifest) -> Index:
        key = (manifest.id, manifest.created_at)
        return self._indexes.find(key, lambda: set_index.of_set(self._store, manifest))

    def _edits_of(self, set_id: str) -> Edits:
        """Listed every time, for others may have edited; each of them read once."""
        before = self._edits.get(set_id)
        found = rationale_edits.read_edits(self._store, set_id, before.by_key if before else None)
        if before is not None and before.by_key.keys() == found.keys():
            return before
        return self._edits.put(set_id, Edits.of(found))

    def _newest_first(self) -> list[str]:
        listed = (key.split("/") for key in self._store.list(keys.RATIONALES))
        ids = [parts[1] for parts in listed if parts[2:] == ["manifest.json"]]
        for set_id in ids:
            if set_id not in self._created:
                self._created[set_id] = self._manifest(set_id).created_at
        return sorted(ids, key=lambda set_id: (self._created[set_id], set_id), reverse=True)
