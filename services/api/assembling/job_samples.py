"""All samples that a job wants of its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcrd.method.prompts import build_teacher_prompt
from qcrd.records.rationales import Question
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.teachers.prompt import PromptForm, PromptStyle
from services.api.assembling.refusals import AskedQuestion, RefusalLog, RowLocation
from services.api.assembling.sampling_plan import SampleRequest, SamplingParams, iter_sample_counts


@dataclass(frozen=True)
class SamplingPlan:
    """All samples that a job wants, by question and by key, in one form of prompt."""

    sampling: SamplingParams
    by_question: Mapping[str, Sequence[SampleRequest]]
    requests: Mapping[str, SampleRequest]
    test_samples: Sequence[SampleRequest]
    """The first of each test question."""
    refusals: RefusalLog
    style: PromptStyle

    @classmethod
    def make(
        cls,
        spec: MethodSpec,
        training: Sequence[Question],
        test: Sequence[Question],
        locations: Mapping[str, RowLocation],
        form: PromptForm,
    ) -> SamplingPlan:
        by_question = {
            question.id: [SampleRequest(prompt, number) for number in range(samples)]
            for question, samples in iter_sample_counts(spec.rationales, training, test)
            for prompt in [
                build_teacher_prompt(spec.task, question, form, spec.rationales.max_new_tokens)
            ]
        }
        asked = {
            samples[0].prompt: AskedQuestion(locations[question], len(samples))
            for question, samples in by_question.items()
            if samples
        }
        return cls(
            sampling=SamplingParams.from_spec(spec.rationales, form.style),
            by_question=by_question,
            requests={each.key: each for samples in by_question.values() for each in samples},
            test_samples=[by_question[q.id][0] for q in test if by_question.get(q.id)],
            refusals=RefusalLog(asked, spec.rationales.max_failed_share),
            style=form.style,
        )
