"""Asking a published student, loaded with transformers as anybody would load it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcrd.errors import Invalid
from qcrd.runtime.storage.prompt_formats import load_prompt_format


@dataclass(frozen=True)
class Answer:
    label: str
    rationale: str | None


class Student:
    def __init__(self, folder: Path) -> None:
        self.manner = load_prompt_format(folder)
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
        if explain and not manner.can_explain:
            raise Invalid(
                "--explain: this student learned labels only, it has no rationales to give"
            )
        said = self._generate(manner.predict, question, manner.max_new_tokens)
        rationale, label = manner.split_output(said)
        if manner.explain is not None and explain:
            rationale = self._generate(manner.explain, question, manner.max_rationale_tokens)
        return Answer(label, rationale if explain else None)

    def _generate(self, prefix: str, question: str, longest: int) -> str:
        prompt = self.manner.format_prompt(prefix, question)
        ids = self._tokenizer(prompt, return_tensors="pt", truncation=True)
        made = self._model.generate(
            input_ids=ids.input_ids,
            attention_mask=ids.attention_mask,
            max_new_tokens=longest,
            do_sample=False,
        )
        own = made[0] if self._seq2seq else made[0, ids.input_ids.shape[1] :]
        said: str = self._tokenizer.decode(own, skip_special_tokens=True)
        return said.strip()
