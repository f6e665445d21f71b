"""Base models as a trainer reports them to the gateways, which do not see its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from qcrd.records.base import Record, StoredRecord


class BaseModelInfo(Record):
    """A base model's config.json, {} where it cannot be read, and what is wrong with its files."""

    config: dict[str, Any] = Field(default_factory=dict)
    problem: str | None = None
    """A sentence without its subject, such as "has no config.json"; None: nothing was found."""


class BaseModelReport(StoredRecord):
    """What one trainer could train at `reported_at`, in seconds since the epoch.

    `worker`: the trainer's host. `models`: its models folder by name. `reaches_hub`: whether the
    hub answered it, so that it may download others.
    """

    worker: str
    models: dict[str, BaseModelInfo]
    reaches_hub: bool
    reported_at: float


ENCODER_MODEL_TYPES = frozenset(
    """
    albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra
    ernie esm eurobert flaubert fnet funnel gte ibert layoutlm longformer luke megatron-bert
    mobilebert modernbert mpnet mra nomic_bert nystromformer rembert roberta roberta-prelayernorm
    roc_bert roformer squeezebert xlm xlm-roberta xlm-roberta-xl xmod yoso
    """.split()
)
"""`model_type` of bases that get a new decoder, unless they come with a head that generates."""


def gets_new_decoder(config: Mapping[str, Any]) -> bool:
    """Whether a student of the base with this config.json has a decoder that begins from nothing;
    False where the config says too little."""
    named = config.get("architectures")
    heads = named if isinstance(named, list) else []
    generates = any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in heads)
    return config.get("model_type") in ENCODER_MODEL_TYPES and not generates
