"""Settings that a job does not name, by what its base is.

Set when the job is created, so that its record, its model's card and every release say the same: a
choice that the trainer made would stand in none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcrd.errors import Invalid, Transient
from qcrd.method.training.objectives import OBJECTIVES
from qcrd.records.base_models import gets_new_decoder
from qcrd.records.specs.spec import JobSpec
from qcrd.records.specs.training_spec import NEW_DECODER_RATES
from services.api.dependencies import Gateway
from services.api.models.base_models import BaseModelCatalog

RATES_TOLD = (
    "the base has no decoder of its own: a new one learns at {learning_rate:g}, the encoder at "
    "{encoder_learning_rate:g}, after {warmup_steps} steps of warm-up; "
    "`hyperparameters.learning_rate` names other rates"
)
REASONED_TOLD = (
    "the student gives its rationale first and answers from it (`student.answers: reasoned`); "
    "`label` has it learn the two apart, as the paper does"
)


def is_for_new_decoder(gateway: Gateway, model: str) -> bool:
    """False for a base whose config.json cannot be seen from here."""
    return gets_new_decoder(_get_config(gateway, model))


def choose_defaults(gateway: Gateway, spec: JobSpec) -> tuple[JobSpec, dict[str, str]]:
    """`spec` with what its base asks for, where it names nothing else, and what to tell of it by
    its kind."""
    config = _get_config(gateway, spec.model)
    if gets_new_decoder(config):
        return _choose_rates(spec)
    return _choose_answers(spec, config)


def _get_config(gateway: Gateway, model: str) -> Mapping[str, Any]:
    catalog = BaseModelCatalog(
        gateway.settings.models, gateway.store, gateway.shared.base_model_reports, gateway.model_hub
    )
    try:
        return catalog.get_config(model, "model")
    except (Invalid, Transient):  # refused later, by the name of its field
        return {}


def _choose_rates(spec: JobSpec) -> tuple[JobSpec, dict[str, str]]:
    hyper = spec.settings.hyperparameters
    if "learning_rate" in hyper.model_fields_set:
        return spec, {}
    given = {name: getattr(hyper, name) for name in hyper.model_fields_set}
    chosen = hyper.model_copy(update={**NEW_DECODER_RATES, **given})
    told = RATES_TOLD.format(**chosen.model_dump())
    return _replace_section(spec, "hyperparameters", chosen), {"learning-rates": told}


def _choose_answers(spec: JobSpec, config: Mapping[str, Any]) -> tuple[JobSpec, dict[str, str]]:
    """A pretrained decoder can reason before it answers, and is asked as it was trained to be."""
    student, told = spec.settings.student, {}
    methods = (spec.method.value, *(row.value for row in spec.settings.baselines))
    chosen: dict[str, str] = {}
    if "prompt" not in student.model_fields_set:
        chosen["prompt"] = "auto"
    learns_rationales = any(OBJECTIVES[row].max_positives != 0 for row in methods)
    if config and learns_rationales and "answers" not in student.model_fields_set:
        chosen["answers"] = "reasoned"
        told["student-answers"] = REASONED_TOLD
    return _replace_section(spec, "student", student.model_copy(update=chosen)), told


def _replace_section(spec: JobSpec, section: str, value: object) -> JobSpec:
    settings = spec.settings.model_copy(update={section: value})
    return spec.model_copy(update={"settings": settings})
