"""The ONNX export: one graph of a decoder-only student, two of an encoder-decoder.

The graphs keep no state between tokens: whoever runs them gives the whole output so far, as the
check by ONNX Runtime does.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers.modeling_outputs import BaseModelOutput

from qcrd.errors import Invalid
from qcrd.exports import agreement
from qcrd.exports.original import OriginalStudent
from qcrd.records.students.prompt_format import PROMPT_FORMAT_FILE

MAX_INLINE_BYTES = 1 << 30
"""Of weights inside a graph's file, whose format ends at 2 GiB; larger ones stand beside it."""
TIE = 1e-3
"""Difference of the two best logits below which either may be said: both compute with 32 bits."""
MODEL, ENCODER, DECODER = "model.onnx", "encoder.onnx", "decoder.onnx"


class _Decoder(nn.Module):
    """input_ids, attention_mask [N, T] -> logits [N, T, V]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).logits
        return logits


class _Encoder(nn.Module):
    """input_ids, attention_mask [N, S] -> encoder_hidden_states [N, S, H]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        return hidden


class _CrossDecoder(nn.Module):
    """decoder_input_ids [N, T], encoder_hidden_states [N, S, H], attention_mask [N, S] ->
    logits [N, T, V]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, decoder_input_ids: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor
    ) -> Tensor:
        logits: Tensor = self.model(
            decoder_input_ids=decoder_input_ids,
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden_states),
            attention_mask=attention_mask,
            use_cache=False,
        ).logits
        return logits


def export_onnx(
    original: OriginalStudent,
    target: Path,
    questions: list[agreement.LabelledQuestion],
) -> str:
    """Write the graphs into the folder `target`, with tokenizer and prompt format; the sentence
    says how they were checked. `Invalid` for a student that cannot be exported, and for graphs that
    answer in another way."""
    original.model.set_attn_implementation("eager")
    prompt = original.tokenize(agreement.QUESTIONS[0])
    ids = torch.tensor([prompt, prompt])
    mask = torch.ones_like(ids)
    rows, columns = Dim("rows"), Dim("tokens")
    both = {0: rows, 1: columns}
    if original.is_encoder_decoder:
        encoder = _Encoder(original.model)
        read = {"input_ids": ids, "attention_mask": mask}
        _write(encoder, read, dict.fromkeys(read, both), "encoder_hidden_states", target / ENCODER)
        hidden = encoder(**read).detach()
        said = torch.tensor([prompt[:3]] * 2)
        _write(
            _CrossDecoder(original.model),
            {
                "decoder_input_ids": said,
                "encoder_hidden_states": hidden,
                "attention_mask": mask,
            },
            {
                "decoder_input_ids": {0: rows, 1: Dim("said")},
                "encoder_hidden_states": both,
                "attention_mask": both,
            },
            "logits",
            target / DECODER,
        )
    else:
        read = {"input_ids": ids, "attention_mask": mask}
        _write(_Decoder(original.model), read, dict.fromkeys(read, both), "logits", target / MODEL)
    original.tokenizer.save_pretrained(target)
    original.model.generation_config.save_pretrained(target)
    (target / PROMPT_FORMAT_FILE).write_text(
        (original.folder / PROMPT_FORMAT_FILE).read_text(encoding="utf-8"), encoding="utf-8"
    )
    generate = OnnxStudent(original, target).generate
    told = [agreement.check_tokens(original, agreement.QUESTIONS, generate, tie=TIE)]
    if questions:
        told.append(agreement.check_labels(original, questions, generate))
    return "ONNX Runtime gives " + "; ".join(told)


@torch.no_grad()
def _write(
    module: nn.Module,
    example: Mapping[str, Tensor],
    shapes: Mapping[str, Any],
    output: str,
    path: Path,
) -> None:
    """One graph, for any number of rows and tokens. `Invalid` where torch cannot trace it."""
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                module.eval(),
                kwargs=dict(example),
                dynamo=True,
                dynamic_shapes=dict(shapes),
                output_names=[output],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error).split())[:200]
        raise Invalid(
            f"--format: torch does not export {path.stem} of this student to ONNX: "
            f"{type(error).__name__}: {reason}",
            param="format",
            code="export_unsupported",
        ) from error
    program.save(path, external_data=size > MAX_INLINE_BYTES)


class OnnxStudent:
    """The graphs of a folder in ONNX Runtime on the CPU."""

    def __init__(self, original: OriginalStudent, folder: Path) -> None:
        self._original = original
        names = (ENCODER, DECODER) if original.is_encoder_decoder else (MODEL,)
        self._sessions = [
            onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
            for name in names
        ]

    def generate(self, prompt: Sequence[int], said: Sequence[int]) -> list[int]:
        """Greedy tokens behind a prompt and what was `said`, the end with them."""
        if not self._original.is_encoder_decoder:
            return self._say([*prompt, *said], "input_ids", {})
        ids = np.array([list(prompt)], dtype=np.int64)
        mask = np.ones_like(ids)
        [hidden] = self._sessions[0].run(None, {"input_ids": ids, "attention_mask": mask})
        start = self._original.model.generation_config.decoder_start_token_id
        read = {"encoder_hidden_states": hidden, "attention_mask": mask}
        return self._say([start, *said], "decoder_input_ids", read)

    def _say(self, begun: list[int], name: str, read: Mapping[str, Any]) -> list[int]:
        tokens = list(begun)
        for _ in range(self._original.prompt_format.max_new_tokens):
            ids = np.array([tokens], dtype=np.int64)
            feed = {"attention_mask": np.ones_like(ids), **read, name: ids}
            [logits] = self._sessions[-1].run(None, feed)
            tokens.append(int(logits[0, -1].argmax()))
            if tokens[-1] in self._original.ends:
                break
        return tokens[len(begun) :]
