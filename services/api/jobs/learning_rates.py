"""Learning rates that a job does not name, by what its base is.

Set when the job is created, so that its record, its model's card and every release say the same
numbers: a rate that the trainer chose would stand in none of them.
"""

from __future__ import annotations

from qcrd.errors import Invalid, Transient
from qcrd.records.base_models import gets_new_decoder
from qcrd.records.specs.spec import JobSpec
from qcrd.records.specs.training_spec import NEW_DECODER_RATES
from services.api.dependencies import Gateway
from services.api.models.base_models import BaseModelCatalog

TOLD = (
    "the base has no decoder of its own: a new one learns at {learning_rate:g}, the encoder at "
    "{encoder_learning_rate:g}, after {warmup_steps} steps of warm-up; "
    "`hyperparameters.learning_rate` names other rates"
)


def is_for_new_decoder(gateway: Gateway, model: str) -> bool:
    """False for a base whose config.json cannot be seen from here."""
    catalog = BaseModelCatalog(
        gateway.settings.models, gateway.store, gateway.shared.base_model_reports, gateway.model_hub
    )
    try:
        return gets_new_decoder(catalog.get_config(model, "model"))
    except (Invalid, Transient):  # refused later, by the name of its field
        return False


def choose_rates(gateway: Gateway, spec: JobSpec) -> tuple[JobSpec, str | None]:
    """`spec` with the rates of its base, where it names none, and what to tell of them."""
    hyper = spec.settings.hyperparameters
    if "learning_rate" in hyper.model_fields_set or not is_for_new_decoder(gateway, spec.model):
        return spec, None
    given = {name: getattr(hyper, name) for name in hyper.model_fields_set}
    chosen = hyper.model_copy(update={**NEW_DECODER_RATES, **given})
    settings = spec.settings.model_copy(update={"hyperparameters": chosen})
    return spec.model_copy(update={"settings": settings}), TOLD.format(**chosen.model_dump())
