"""The quality judges: read from the discriminator while they are loaded, else from the store."""

from __future__ import annotations

from typing import Literal

import httpx2
from pydantic import ValidationError

from qcrd.errors import NotFound
from qcrd.records.judge import CreateJudgeRequest, JudgeVersion
from qcrd.records.rest import ApiObject, Page
from qcrd.records.specs.training_spec import JudgeSpec
from qcrd.runtime import keys
from qcrd.runtime.settings import DiscriminatorAddress
from qcrd.runtime.storage.store import Store, find_readable_record, read_record
from services.api.http.paging import skip_through, take_found
from services.api.http.serializers import build_page

SERVICE_TIMEOUT = httpx2.Timeout(2.0, connect=0.5)
"""Seconds. The service responds at once or is busy training; the store has the same data."""
MAX_VERSIONS = 100
"""Newest versions that are shown with their histograms; a job keeps few more than its lag."""


class DiscriminatorSummary(ApiObject):
    """`base` is the encoder's model; `version` the newest: 0 untrained, 1 pretrained, t + 2 updated
    in iteration t. `job_id` is None of the judge of a finished student's answers, which `qcrd.json`
    in the model's folder names."""

    object: Literal["discriminator"] = "discriminator"
    job_id: str | None
    base: str
    seed: int
    spec: JudgeSpec
    version: int


class DiscriminatorObject(DiscriminatorSummary):
    """`current` comes from `source`: the service where it has the judge in memory; `service` says
    why not, where it has not. `versions` are those that the store has, newest first."""

    source: Literal["service", "store"]
    service: str
    current: JudgeVersion
    versions: list[JudgeVersion]


class DiscriminatorService:
    def __init__(self, store: Store, client: httpx2.Client) -> None:
        """`client` has the service's address and short timeouts."""
        self._store = store
        self._client = client

    def list_discriminators(self, after: str | None, limit: int) -> Page[DiscriminatorSummary]:
        """A page of judges by id, the only order that a listing has."""
        versions_by_id = self._list_version_numbers_by_id()
        ids = skip_through(list(versions_by_id), after, "discriminator", str)

        def find_summary(judge_id: str) -> DiscriminatorSummary | None:
            creation = find_readable_record(
                self._store, keys.judge_spec_key(judge_id), CreateJudgeRequest
            )
            if creation is None:
                return None
            return _make_summary(judge_id, creation, versions_by_id[judge_id])

        data, has_more = take_found(ids, limit, find_summary)
        return build_page(data, has_more=has_more)

    def get_discriminator(self, judge_id: str) -> DiscriminatorObject:
        """`NotFound` when the store has no such judge: the service writes it there first."""
        version_numbers = self._list_version_numbers(judge_id)
        summary = _make_summary(judge_id, self._read_creation(judge_id), version_numbers)
        description_keys = [
            keys.judge_description_key(judge_id, number)
            for number in sorted(version_numbers, reverse=True)[:MAX_VERSIONS]
        ]
        versions = [
            version
            for key in description_keys
            if (version := find_readable_record(self._store, key, JudgeVersion)) is not None
        ]
        current, service_status = self._fetch_current(judge_id)
        stored = versions[0] if versions else JudgeVersion(version=0)
        return DiscriminatorObject(
            **summary.model_dump(),
            source="store" if current is None else "service",
            service=service_status,
            current=current or stored,
            versions=versions,
        )

    def _list_version_numbers_by_id(self) -> dict[str, list[int]]:
        """Version numbers by judge id; a judge without a spec yet is left out."""
        versions_by_id: dict[str, list[int]] = {}
        ids_with_spec: set[str] = set()
        for key in self._store.list(keys.JUDGES):
            judge_id = key.split("/")[1]
            versions = versions_by_id.setdefault(judge_id, [])
            if key == keys.judge_spec_key(judge_id):
                ids_with_spec.add(judge_id)
            elif (version := keys.parse_judge_version(key)) is not None:
                versions.append(version)
        return {
            judge_id: versions
            for judge_id, versions in versions_by_id.items()
            if judge_id in ids_with_spec
        }

    def _read_creation(self, judge_id: str) -> CreateJudgeRequest:
        try:
            return read_record(self._store, keys.judge_spec_key(judge_id), CreateJudgeRequest)
        except NotFound as error:
            raise NotFound(
                f"there is no discriminator {judge_id}: it has the id of a job that has come to "
                "train with one (method `qcrd`)",
                param="judge_id",
                code="discriminator_not_found",
            ) from error

    def _list_version_numbers(self, judge_id: str) -> list[int]:
        prefix = keys.judge_prefix(keys.require_id(judge_id, "judge_id", "discriminator_not_found"))
        parsed = map(keys.parse_judge_version, self._store.list(prefix))
        return [version for version in parsed if version is not None]

    def _fetch_current(self, judge_id: str) -> tuple[JudgeVersion | None, str]:
        """The service's description of a loaded judge, or the reason why there is none."""
        try:
            response = self._client.get(f"/v1/judges/{judge_id}", params={"resident": "true"})
        except httpx2.HTTPError as error:
            return None, f"does not respond ({type(error).__name__})"
        if response.status_code == 404:
            return None, "does not hold it in memory"
        try:
            return JudgeVersion.model_validate_json(response.raise_for_status().content), "ok"
        except (httpx2.HTTPError, ValidationError):
            return None, f"responded with status {response.status_code}, not with a judge"


def _make_summary(
    judge_id: str, creation: CreateJudgeRequest, versions: list[int]
) -> DiscriminatorSummary:
    return DiscriminatorSummary(
        id=judge_id,
        job_id=None if judge_id.startswith(keys.ANSWER_JUDGE_PREFIX) else judge_id,
        base=creation.base,
        seed=creation.seed,
        spec=creation.spec,
        version=max(versions, default=0),
    )


def make_service_client(settings: DiscriminatorAddress) -> httpx2.Client:
    return httpx2.Client(base_url=settings.url, timeout=SERVICE_TIMEOUT)
