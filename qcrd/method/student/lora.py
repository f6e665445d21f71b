"""Low-rank adapters: into a student before training, merged into its weights when published.

peft is imported where adapters are asked for: it takes two seconds, and most students have none.
"""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qcrd.records.specs.training_spec import StudentSpec

PEFT_PREFIX = "base_model.model."
"""Of the names of weights in an adapter's file: where PEFT puts the base."""


def inject_adapters(model: Any, spec: StudentSpec, *, seed: int) -> None:
    """Put the spec's adapters, a function of `seed`, into `model`; all else in it is frozen then.

    The model keeps its class, and an adapter adds nothing until it is trained.
    """
    if spec.lora is None:
        return
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules="all-linear",
        exclude_modules=_match_lower_layers(model, spec.lora_upper_share),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:  # trained in fp32, whatever the frozen weights are in
            parameter.data = parameter.data.float()


def _match_lower_layers(model: Any, upper_share: float) -> str | None:
    """A regular expression of the modules below the upper share of each stack of layers."""
    stacks: list[str] = []
    below: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(
            name.startswith(f"{stack}.") for stack in stacks
        ):
            stacks.append(name)
            n_lower = round(len(module) * (1 - upper_share))
            below += [f"{name}.{place}" for place in range(n_lower)]
    return rf"(?:{'|'.join(map(re.escape, below))})\..*" if below else None


def has_adapters(model: Any) -> bool:
    """Whether adapters were put into `model`."""
    if "peft" not in sys.modules:  # whose classes adapters are
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


def save_adapters(model: Any, folder: Path, *, base: str) -> None:
    """Write the adapters of `model` as `PeftModel.from_pretrained` reads them; `base` is the name
    that it gives the model under them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    weights = {
        f"{PEFT_PREFIX}{name}": weight.detach().cpu().contiguous()
        for name, weight in get_peft_model_state_dict(model).items()
    }
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    [config] = model.peft_config.values()
    config = copy.copy(config)
    config.base_model_name_or_path = base
    config.task_type = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    config.inference_mode = True
    config.save_pretrained(folder)


def merge_adapters(model: Any) -> Any:
    """A plain model that computes what `model` does: itself, or a copy with its adapters merged."""
    if not has_adapters(model):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged_model = copy.deepcopy(model)
    layers = [(n, m) for n, m in merged_model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge()
        merged_model.set_submodule(name, layer.get_base_layer())
    return merged_model
