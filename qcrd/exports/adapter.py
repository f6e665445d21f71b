"""The adapter export: what a LoRA student learned, apart from its base, for PEFT."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftConfig, PeftModel

from qcrd.errors import Invalid
from qcrd.exports import agreement
from qcrd.exports.original import OriginalStudent
from qcrd.records.students.prompt_format import ADAPTER_FOLDER, PROMPT_FORMAT_FILE

TIE = 1e-3
"""Difference of the two best logits below which either may be said: merged weights are rounded
once, those apart in each layer."""


def export_adapter(
    original: OriginalStudent,
    target: Path,
    questions: list[agreement.LabelledQuestion],
    models: Path | None,
) -> str:
    """Copy the adapter that was published beside the merged weights into `target`, with tokenizer
    and prompt format; the sentence says how it was checked. `Invalid` for a student without one,
    and where base and adapter answer in another way."""
    source = original.folder / ADAPTER_FOLDER
    if not source.is_dir():
        raise Invalid(
            "--format: this student has no adapter: it was trained whole, without `student.lora`, "
            "or published by a release that merged it only",
            param="format",
            code="export_unsupported",
        )
    shutil.copytree(source, target, dirs_exist_ok=True)
    original.tokenizer.save_pretrained(target)
    shutil.copy(original.folder / PROMPT_FORMAT_FILE, target)
    name = str(PeftConfig.from_pretrained(str(target)).base_model_name_or_path)
    base = None if models is None else models / name
    if base is None or not (base / "config.json").is_file():
        return (
            f"not verified: its base {name} is not in the models folder, to put the adapter onto "
            "it; set QCRD_MODELS_DIR to one that has it"
        )
    generate = _load(original, base, target)
    told = [agreement.check_tokens(original, agreement.QUESTIONS, generate, tie=TIE)]
    if questions:
        told.append(agreement.check_labels(original, questions, generate))
    return f"on {name} PEFT gives " + "; ".join(told)


def _load(original: OriginalStudent, base: Path, adapter: Path) -> agreement.Generate:
    model_class: Any = (
        transformers.AutoModelForSeq2SeqLM
        if original.is_encoder_decoder
        else transformers.AutoModelForCausalLM
    )
    model: Any = PeftModel.from_pretrained(
        model_class.from_pretrained(base, dtype=torch.float32), adapter
    ).get_base_model()
    # A student is asked by what it was measured by, and not by what its base ships.
    model.generation_config = original.model.generation_config
    model.eval()
    return lambda prompt, said: original.generate_by(model, prompt, said).tokens
