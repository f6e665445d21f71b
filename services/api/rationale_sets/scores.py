"""Scores of a set's rationales by the judge of one job, by rationale id."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from qcrd.errors import NotFound
from qcrd.records.rationale_annotations import RationaleScore, RationaleScoreManifest
from qcrd.records.rationales import RationaleManifest
from qcrd.runtime import keys
from qcrd.runtime.storage.json_lines import read_lines
from qcrd.runtime.storage.store import Store, find_readable_record, read_record
from services.api.rationale_sets.index import hash_id


class SetScores:
    """`ids` are `hash_id` and ascending; `scores` [same] in (0, 1)."""

    def __init__(
        self, manifest: RationaleScoreManifest, ids: NDArray[np.uint64], scores: NDArray[np.float64]
    ) -> None:
        self.manifest = manifest
        self._ids = ids
        self._scores = scores

    @property
    def nbytes(self) -> int:
        return int(self._ids.nbytes + self._scores.nbytes)

    def lookup(self, ids: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Scores of `ids`, NaN for those that this judge did not score."""
        if not len(self._ids):
            return np.full(len(ids), np.nan)
        positions = np.searchsorted(self._ids, ids).clip(max=len(self._ids) - 1)
        return np.where(self._ids[positions] == ids, self._scores[positions], np.nan)


def find_score_manifest(
    store: Store, manifest: RationaleManifest, job_id: str | None
) -> RationaleScoreManifest | None:
    """The scores to show: those of `job_id`, else of the job that assembled the set, else the
    newest. None where no judge has scored it; `NotFound` when `job_id` names a judge that has not.
    """
    prefix = keys.rationale_scores_prefix(manifest.id)
    score_keys = store.list(prefix)
    wanted_job_id = job_id or manifest.job_id
    if (
        wanted_job_id
        and (key := keys.rationale_scores_key(manifest.id, wanted_job_id)) in score_keys
    ):
        return read_record(store, key, RationaleScoreManifest)
    if job_id:
        raise NotFound(
            f"`judge`: job {job_id[:80]} has not scored rationale set {manifest.id}; these have: "
            f"{', '.join(_parse_job_id(key) for key in score_keys) or 'none'}",
            param="judge",
            code="judge_not_found",
        )
    found = list_score_manifests(store, manifest.id)
    return max(found, key=lambda one: (one.created_at, one.job_id), default=None)


def list_score_manifests(store: Store, set_id: str) -> list[RationaleScoreManifest]:
    score_keys = store.list(keys.rationale_scores_prefix(set_id))
    stored = (find_readable_record(store, key, RationaleScoreManifest) for key in score_keys)
    return [manifest for manifest in stored if manifest is not None]


def load_scores(store: Store, manifest: RationaleScoreManifest) -> SetScores:
    """Read the scores; none when their job was deleted meanwhile."""
    ids, scores = array("Q"), array("d")
    try:
        for line in read_lines(store, manifest.scores, RationaleScore):
            ids.append(hash_id(line.rationale_id))
            scores.append(line.score)
    except NotFound:
        pass
    columns = np.array(ids, np.uint64), np.array(scores, np.float64)
    unique, positions = np.unique(columns[0], return_index=True)
    return SetScores(manifest, unique, columns[1][positions])


def _parse_job_id(key: str) -> str:
    return key.rsplit("/", 1)[1].removesuffix(".json")
