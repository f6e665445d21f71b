"""Memory of a training, part by part, from what is known before it starts.

Weights, gradients, moments and their copies are exact; activations and logits are what a step at
the spec's limits would keep for its backward pass, and an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qcrd.planning.architectures import Architecture
from qcrd.planning.steps import StepTokens
from qcrd.records.specs.spec import MethodName, MethodSpec
from qcrd.records.specs.training_spec import NegativeSource

FP32, BF16 = 4, 2
MOMENTS = 2
"""Of AdamW, in fp32 as the weights are."""
LOGIT_BYTES = 12
"""Of a logit of a predicted token: as computed, in fp32, and its gradient."""
RESERVE = 0.1
"""Share of a card that is left for CUDA, the allocator's gaps and what is not counted."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part: `card`, on each GPU of the mesh; `host`, of each process; `judge`, on the
    discriminator's device. `trained`: parameters with gradients."""

    card: Mapping[str, int]
    host: Mapping[str, int]
    judge: int | None
    trained: int

    @property
    def card_bytes(self) -> int:
        return sum(self.card.values())

    def fits(self, gpu_bytes: int) -> bool:
        return self.card_bytes <= gpu_bytes * (1 - RESERVE)


def count_trained(architecture: Architecture, spec: MethodSpec, *, is_encoder: bool) -> int:
    """Parameters that training changes. Of an encoder's student the word embeddings are frozen,
    unless the spec says otherwise."""
    if spec.student.lora is not None:
        return architecture.count_lora(spec.student.lora.rank)
    if not is_encoder or spec.student.freeze == "nothing":
        return architecture.parameters
    return architecture.parameters - architecture.embeddings


def plan_memory(
    architecture: Architecture,
    spec: MethodSpec,
    method: MethodName,
    tokens: StepTokens,
    *,
    trained: int,
    judge: Architecture | None = None,
    shards: int = 1,
    processes: int = 1,
    bf16: bool = True,
) -> Memory:
    """The memory of the main method's training on each of `processes` cards."""
    whole, width = architecture.parameters, BF16 if bf16 else FP32
    adapters = trained if spec.student.lora is not None else 0
    # What adapters leave frozen is kept in the width that it is multiplied in, and so not copied.
    weights = width * whole + FP32 * adapters if adapters else FP32 * whole
    products = architecture.linear_parameters + architecture.vocabulary * architecture.hidden
    copies = BF16 * (adapters or products) if bf16 else 0
    samples = samples_negatives(spec, method)
    # Beside a sharded student a rank keeps a whole one; else the copy shares what is frozen.
    second = weights if processes > 1 else FP32 * trained if samples else 0
    per_token = count_activations(
        architecture, width, recomputed=spec.student.gradient_checkpointing
    )
    card = {
        "weights": weights // shards,
        "gradients": FP32 * trained // shards,
        "moments": MOMENTS * FP32 * trained // shards,
        "bf16 copies of the weights": copies,
        "activations": per_token * -(-tokens.read // processes),
        "logits": LOGIT_BYTES * architecture.vocabulary * -(-tokens.predicted // processes),
        "copy of the student that samples": second,
    }
    kept = (spec.negatives.lag + 1 if samples else 0) + 1
    host = {"weight history and best": kept * FP32 * trained // shards}
    judged = None if judge is None else (1 + 1 + MOMENTS) * FP32 * judge.parameters
    return Memory(MappingProxyType(card), MappingProxyType(host), judged, trained)


def samples_negatives(spec: MethodSpec, method: MethodName) -> bool:
    """Whether earlier selves of the student write negatives."""
    is_source = {NegativeSource.STUDENT_LAG, NegativeSource.FIXED} & set(spec.negatives.source)
    return method in (MethodName.QCRD, MethodName.DSS_NEGATIVES) and bool(is_source)


def count_activations(architecture: Architecture, width: int, *, recomputed: bool = False) -> int:
    """Bytes that a token leaves in all layers for the backward pass: input and output of each
    matrix, once, in `width` bytes, and the residual stream at a layer's two norms in fp32.
    `recomputed`: the residual stream before each layer, and all of one layer at a time."""
    ends = sum(x.count * (x.inputs + x.outputs) for x in architecture.linears)
    layers = architecture.layers
    every_layer = width * ends + 2 * FP32 * layers * architecture.hidden
    if recomputed:
        return layers * width * architecture.hidden + every_layer // layers
    return every_layer
