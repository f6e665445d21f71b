"""Memory of a training, part by part, from what is known before it starts.

Weights, gradients, moments and their copies are exact; activations and logits are what a step at
the spec's limits would keep for its backward pass, without gradient checkpointing, and an estimate.
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
PRODUCT_CALLS = 3
"""Calls of the model in a step (decision 23), each of which keeps a bf16 copy of the weights that
are multiplied: of frozen ones autocast shares none."""
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
    all_weights = whole + adapters
    products = architecture.linear_parameters + architecture.vocabulary * architecture.hidden
    copies = BF16 * products * (PRODUCT_CALLS if adapters else 1) if bf16 else 0
    samples = samples_negatives(spec, method)
    card = {
        "weights": FP32 * all_weights // shards,
        "gradients": FP32 * trained // shards,
        "moments": MOMENTS * FP32 * trained // shards,
        "bf16 copies of the weights": copies,
        "activations": count_activations(architecture, width) * -(-tokens.read // processes),
        "logits": LOGIT_BYTES * architecture.vocabulary * -(-tokens.predicted // processes),
        "copy of the student that samples": FP32 * all_weights if samples or shards > 1 else 0,
    }
    kept = (spec.negatives.lag + 1 if samples else 0) + 1
    host = {"weight history and best": kept * FP32 * trained // shards}
    judged = None if judge is None else (1 + 1 + MOMENTS) * FP32 * judge.parameters
    return Memory(MappingProxyType(card), MappingProxyType(host), judged, trained)


def samples_negatives(spec: MethodSpec, method: MethodName) -> bool:
    """Whether earlier selves of the student write negatives."""
    is_source = {NegativeSource.STUDENT_LAG, NegativeSource.FIXED} & set(spec.negatives.source)
    return method in (MethodName.QCRD, MethodName.DSS_NEGATIVES) and bool(is_source)


def count_activations(architecture: Architecture, width: int) -> int:
    """Bytes that a token leaves in all layers for the backward pass: input and output of each
    matrix, once, in `width` bytes, and the residual stream at a layer's two norms in fp32."""
    ends = sum(x.count * (x.inputs + x.outputs) for x in architecture.linears)
    return width * ends + 2 * FP32 * architecture.layers * architecture.hidden
