"""Asking a published student, loaded with transformers as anybody would load it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcrd.errors import Invalid

INFERENCE = "qcrd.json"
JOINED_MARK = re.compile(r"\banswer\s*:")
"""A single-task student explains first; its label follows the last of these."""


@dataclass(frozen=True)
class Manner:
    """How the student was trained to be asked: `qcrd.json` of its folder. `explain` is None for a
    student that never learned rationales."""

    predict: str
    explain: str | None
    max_label_tokens: int
    max_rationale_tokens: int
    joined: bool
    suffix: str
    """What ends every prompt; a decoder-only student answers after it."""

    @classmethod
    def of(cls, folder: Path) -> Manner:
        try:
            told = json.loads((folder / INFERENCE).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise Invalid(f"{folder} is not a student: it has no {INFERENCE}") from error
        except ValueError as error:
            raise Invalid(f"{folder / INFERENCE} is not JSON: {error}") from error
        return cls(
            predict=told["predict"],
            explain=told.get("explain"),
            max_label_tokens=told.get("max_label_tokens", 32),
            max_rationale_tokens=told.get("max_rationale_tokens", 256),
            joined=bool(told.get("joined", False)),
            suffix=told.get("suffix", ""),
        )


@dataclass(frozen=True)
class Answer:
    label: str
    rationale: str | None


class Student:
    def __init__(self, folder: Path) -> None:
        self.manner = Manner.of(folder)
        try:
            import transformers
        except ImportError as error:
            raise Invalid(
                "models are run with torch and transformers: pip install 'qcrd[trainer,cli]'"
            ) from error
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        config = transformers.AutoConfig.from_pretrained(folder)
        self._seq2seq = bool(config.is_encoder_decoder)
        kind: Any = (
            transformers.AutoModelForSeq2SeqLM
            if self._seq2seq
            else transformers.AutoModelForCausalLM
        )
        self._model = kind.from_pretrained(folder).eval()
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)

    def ask(self, question: str, *, explain: bool) -> Answer:
        """Greedy. `Invalid` for a rationale of a student that learned none."""
        manner = self.manner
        if explain and manner.explain is None and not manner.joined:
            raise Invalid(
                "--explain: this student learned labels only, it has no rationales to give"
            )
        longest = manner.max_label_tokens + manner.max_rationale_tokens * manner.joined
        said = self._generate(manner.predict + question, longest)
        if manner.joined:
            *before, label = JOINED_MARK.split(said)
            return Answer(label.strip(), " ".join(before).strip() if explain else None)
        if not explain or manner.explain is None:
            return Answer(said, None)
        return Answer(said, self._generate(manner.explain + question, manner.max_rationale_tokens))

    def _generate(self, prompt: str, longest: int) -> str:
        text = prompt + self.manner.suffix
        ids = self._tokenizer(text, return_tensors="pt", truncation=True)
        made = self._model.generate(
            input_ids=ids.input_ids,
            attention_mask=ids.attention_mask,
            max_new_tokens=longest,
            do_sample=False,
        )
        own = made[0] if self._seq2seq else made[0, ids.input_ids.shape[1] :]
        said: str = self._tokenizer.decode(own, skip_special_tokens=True)
        return said.strip()
