"""All samples that a job wants of its teacher."""

from __future__ import annotations

from dataclasses import dataclass

from qcrd.records.job import Job
from qcrd.records.teachers.prompt import PromptForm, PromptStyle, TeacherPrompt
from services.api.assembling.refusals import AskedQuestion, RefusalLog
from services.api.assembling.sampling_plan import SamplingParams
from services.api.assembling.spill.database import SpillDatabase
from services.api.assembling.spill.samples import SpilledSamples


@dataclass(frozen=True)
class SamplingPlan:
    """All samples that a job wants, in one form of prompt."""

    sampling: SamplingParams
    samples: SpilledSamples
    refusals: RefusalLog
    style: PromptStyle

    @classmethod
    def make(cls, job: Job, database: SpillDatabase, form: PromptForm) -> SamplingPlan:
        """Of the questions that the database has."""
        spec = job.spec.settings
        samples = SpilledSamples(database, spec, form, job.id)
        return cls(
            sampling=SamplingParams.from_spec(spec.rationales, form.style),
            samples=samples,
            refusals=RefusalLog(_AskedPrompts(samples), spec.rationales.max_failed_share),
            style=form.style,
        )


class _AskedPrompts:
    """The question of each prompt, looked up as it is refused."""

    def __init__(self, samples: SpilledSamples) -> None:
        self._samples = samples
        self._count = samples.count_prompts()

    def __getitem__(self, prompt: TeacherPrompt) -> AskedQuestion:
        return self._samples.find_asked(prompt)

    def __len__(self) -> int:
        return self._count
