"""Rationale sets for the routes: pages of items, edits, export.

Immutable objects (indexes, scores, edits) are cached up to a bound, so that any page costs a few
small reads and the shards with its items.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator

import numpy as np
from cachetools import LRUCache, cachedmethod

from qcrd.errors import Invalid, NotFound
from qcrd.records.api_keys import ApiKey
from qcrd.records.rationale_annotations import RationaleEdit, RationaleScoreManifest
from qcrd.records.rationales import RationaleManifest
from qcrd.records.rest import Page
from qcrd.runtime import keys
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.store import Store, find_readable_record, read_record
from services.api.http.access.ownership import check_owner, get_job_owner
from services.api.http.paging import skip_through, take_found
from services.api.http.serializers import build_page
from services.api.rationale_sets import export as set_export
from services.api.rationale_sets import index as set_index
from services.api.rationale_sets import items as set_items
from services.api.rationale_sets import schemas
from services.api.rationale_sets import scores as set_scores
from services.api.rationale_sets.cache import make_cache
from services.api.rationale_sets.filtering import EditLog, RationaleSetView
from services.api.rationale_sets.index import RationaleSetIndex
from services.api.rationale_sets.schemas import (
    EditRequest,
    ExportQuery,
    ItemPage,
    ItemQuery,
    ItemWithHistory,
    RationaleSetObject,
    RationaleSetSummary,
)
from services.api.rationale_sets.scores import SetScores

INDEX_CACHE_BYTES, SCORE_CACHE_BYTES, EDIT_CACHE_BYTES = 24 << 20, 16 << 20, 8 << 20
"""100,000 items in 20,000 questions have an index of 1.4 MB and scores of 1.6 MB."""


class RationaleSetService:
    """The cache of one process; safe to share between its threads."""

    def __init__(self, store: Store, jobs: JobStore) -> None:
        """`jobs`: a set's owner is that of its job."""
        self._store = store
        self._jobs = jobs
        self._indexes: LRUCache[Hashable, RationaleSetIndex] = make_cache(INDEX_CACHE_BYTES)
        self._scores: LRUCache[Hashable, SetScores] = make_cache(SCORE_CACHE_BYTES)
        self._edits: LRUCache[Hashable, EditLog] = make_cache(EDIT_CACHE_BYTES)
        self._cache_lock = threading.Lock()
        """Held while a cache is looked at, not while it is filled: that two read the same is
        cheaper than that all wait for one."""
        self._created_at: dict[str, float] = {}
        """Set id -> when; about 100 bytes each."""

    def list_sets(self, after: str | None, limit: int) -> Page[RationaleSetSummary]:
        """Newest first. Each set's age is read once by this process, then only listed."""
        ids = skip_through(self._list_ids_newest_first(), after, "rationale set", str)
        found, has_more = take_found(ids, limit, self._find_manifest)
        data = [schemas.serialize_set_summary(manifest) for manifest in found]
        return build_page(data, has_more=has_more)

    def get_set(self, set_id: str) -> RationaleSetObject:
        view = self._load_view(set_id, None)
        revision = rationale_edits.make_revision(view.edits.by_key).id
        return schemas.serialize_set(
            view, revision, set_scores.list_score_manifests(self._store, set_id)
        )

    def list_items(self, set_id: str, query: ItemQuery) -> ItemPage:
        query.check_bounds()
        view = self._load_view(set_id, query.judge)
        rows = view.filter_rows(query)
        if query.after is not None:
            rows = rows[rows > view.index.find_row(query.after, "after")]
        page_rows = set_items.clip_to_shards(view, rows[: query.limit])
        data = list(set_items.read_items(self._store, view, page_rows))
        return ItemPage(
            data=data,
            has_more=len(rows) > len(page_rows),
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            judge=schemas.serialize_judge_scoring(view.judge_scores.manifest)
            if view.judge_scores
            else None,
        )

    def get_item(self, set_id: str, item_id: str, judge: str | None = None) -> ItemWithHistory:
        view = self._load_view(set_id, judge)
        row = view.index.find_row(item_id)
        (item,) = set_items.read_items(self._store, view, np.array([row]))
        history = [e for e in view.edits.by_key.values() if e.item_id == item_id]
        return ItemWithHistory(
            **item.model_dump(), history=[schemas.serialize_edit(e) for e in history]
        )

    def edit_item(
        self, set_id: str, item_id: str, request: EditRequest, caller: ApiKey
    ) -> ItemWithHistory:
        """Save the edit and return the item with it; nothing is overwritten."""
        changes = request.model_dump(exclude_none=True)
        if not changes.keys() - {"reason"}:
            raise Invalid(
                "nothing to change: give `excluded`, `text` or `answer`", code="empty_edit"
            )
        manifest = self._read_manifest(set_id)
        check_owner(f"rationale set {set_id}", get_job_owner(self._jobs, manifest.job_id), caller)
        self._load_index(manifest).find_row(item_id)
        new_edit = RationaleEdit(id="", item_id=item_id, by=caller.name, at=time.time(), **changes)
        rationale_edits.add_edit(self._store, set_id, new_edit)
        return self.get_item(set_id, item_id)

    def export_items(self, set_id: str, query: ExportQuery) -> Iterator[bytes]:
        """The export as JSON lines; errors are raised before the first one."""
        query.check_bounds()
        view = self._load_view(set_id, query.judge)
        items = set_items.read_items(self._store, view, view.filter_rows(query))
        dump = set_export.dump_questions if query.format == "questions" else set_export.dump_items
        return set_export.join_lines(dump(items))

    # --- reading -------------------------------------------------------------------------------

    def _load_view(self, set_id: str, judge: str | None) -> RationaleSetView:
        manifest = self._read_manifest(set_id)
        scored = set_scores.find_score_manifest(self._store, manifest, judge)
        scores = self._load_scores(scored) if scored is not None else None
        return RationaleSetView(
            manifest, self._load_index(manifest), self._load_edits(set_id), scores
        )

    def _read_manifest(self, set_id: str) -> RationaleManifest:
        key = keys.rationale_manifest_key(keys.require_id(set_id, "set_id", "set_not_found"))
        try:
            return read_record(self._store, key, RationaleManifest)
        except NotFound as error:
            raise NotFound(
                f"there is no rationale set {set_id}", param="set_id", code="set_not_found"
            ) from error

    def _find_manifest(self, set_id: str) -> RationaleManifest | None:
        """For the list: None for a set that is gone, or whose manifest cannot be read."""
        key = keys.rationale_manifest_key(set_id)
        return find_readable_record(self._store, key, RationaleManifest)

    @cachedmethod(
        lambda self: self._indexes,
        key=lambda self, manifest: (manifest.id, manifest.created_at),
        lock=lambda self: self._cache_lock,
    )
    def _load_index(self, manifest: RationaleManifest) -> RationaleSetIndex:
        return set_index.load_index(self._store, manifest)

    @cachedmethod(
        lambda self: self._scores,
        key=lambda self, judged: (judged.scores, judged.created_at),
        lock=lambda self: self._cache_lock,
    )
    def _load_scores(self, judged: RationaleScoreManifest) -> SetScores:
        return set_scores.load_scores(self._store, judged)

    def _load_edits(self, set_id: str) -> EditLog:
        """The current edits: listed every time, as other gateways save too, each read once."""
        with self._cache_lock:
            cached = self._edits.get(set_id)
        by_key = rationale_edits.read_edits(self._store, set_id, cached.by_key if cached else None)
        if cached is not None and cached.by_key.keys() == by_key.keys():
            return cached
        edit_log = EditLog.from_edits(by_key)
        with self._cache_lock:
            self._edits[set_id] = edit_log
        return edit_log

    def _list_ids_newest_first(self) -> list[str]:
        split_keys = (key.split("/") for key in self._store.list(keys.RATIONALES))
        ids = [parts[1] for parts in split_keys if parts[2:] == ["manifest.json"]]
        for set_id in ids:
            if set_id not in self._created_at and (manifest := self._find_manifest(set_id)):
                self._created_at[set_id] = manifest.created_at
        dated = [(self._created_at[set_id], set_id) for set_id in ids if set_id in self._created_at]
        return [set_id for _, set_id in sorted(dated, reverse=True)]
