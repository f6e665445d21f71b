"""Run a published student locally with transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcrd.cli.install_hint import format_install_command
from qcrd.errors import Invalid
from qcrd.records.students.answer_form import AnswerForm
from qcrd.records.students.confidence import sum_answer_logprobs
from qcrd.runtime.storage.prompt_formats import load_prompt_format


@dataclass(frozen=True)
class StudentOutput:
    """`confidence`: the chance that the label is right, where it was calibrated; `escalate`: it is
    below what the student's fallback asks for."""

    label: str
    rationale: str | None
    confidence: float | None = None
    escalate: bool = False


class LocalStudent:
    def __init__(self, folder: Path) -> None:
        self.prompt_format = load_prompt_format(folder)
        try:
            import transformers
        except ImportError as error:
            raise Invalid(
                "models are run with torch and transformers: "
                f"{format_install_command('trainer,cli')}"
            ) from error
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        config = transformers.AutoConfig.from_pretrained(folder)
        self._seq2seq = bool(config.is_encoder_decoder)
        model_class: Any = (
            transformers.AutoModelForSeq2SeqLM
            if self._seq2seq
            else transformers.AutoModelForCausalLM
        )
        self._model = model_class.from_pretrained(folder).eval()
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)

    def predict(self, question: str, *, explain: bool) -> StudentOutput:
        """Greedy decoding. `Invalid` for `explain` of a student trained without rationales."""
        prompt_format = self.prompt_format
        if explain and not prompt_format.can_explain:
            raise Invalid(
                "--explain: this student learned labels only, it has no rationales to give"
            )
        output, logprob = self._generate(
            prompt_format.predict,
            question,
            prompt_format.max_new_tokens,
            prompt_format.answer_form,
        )
        rationale, label = prompt_format.split_output(output)
        if prompt_format.explain is not None and explain:
            rationale, _ = self._generate(
                prompt_format.explain, question, prompt_format.max_rationale_tokens
            )
        shown = rationale if explain else None
        confidence = prompt_format.confidence
        if confidence is None:
            return StudentOutput(label, shown)
        value = confidence.compute_single(logprob)
        fallback = confidence.fallback
        return StudentOutput(
            label, shown, value, fallback is not None and value < fallback.threshold
        )

    def _generate(
        self, prefix: str, question: str, max_new_tokens: int, form: AnswerForm | None = None
    ) -> tuple[str, float | None]:
        """The output, and the log-probability of its answer, freely; None where it has none."""
        prompt = self.prompt_format.format_prompt(prefix, question)
        ids = self._tokenizer(prompt, return_tensors="pt", truncation=True)
        start = 1 if self._seq2seq else ids.input_ids.shape[1]
        others = [] if form is None else sorted(set(range(len(self._tokenizer))) - set(form.ends))

        def list_allowed(_: int, so_far: Any) -> list[int]:
            assert form is not None
            return sorted(form.find_allowed(so_far[start:].tolist())) or others

        generated = self._model.generate(
            input_ids=ids.input_ids,
            attention_mask=ids.attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            prefix_allowed_tokens_fn=None if form is None else list_allowed,
            output_logits=True,
            return_dict_in_generate=True,
        )
        new_tokens = generated.sequences[0, start:]
        output: str = self._tokenizer.decode(new_tokens, skip_special_tokens=True)
        confidence = self.prompt_format.confidence
        if confidence is None:
            return output.strip(), None
        steps = zip(generated.logits, new_tokens, strict=True)
        logprobs = [float(logits[0].float().log_softmax(-1)[token]) for logits, token in steps]
        answer = sum_answer_logprobs(new_tokens.tolist(), logprobs, confidence.mark)
        return output.strip(), answer
