"""Prompts of a job that may not exist yet, one at a time: its files may be larger than memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from qcrd.method.prompts import build_teacher_prompt
from qcrd.records.rationales import Question
from qcrd.records.specs.spec import JobSpec
from qcrd.records.teachers.prompt import PromptForm, TeacherPrompt
from qcrd.runtime.storage.store import Store
from services.api.assembling import sampling_plan
from services.api.assembling.generation_cache import Generation, GenerationCache
from services.api.assembling.refusals import RowLocation
from services.api.assembling.sampling_plan import SamplingParams
from services.api.assembling.teacher.teacher_client import TeacherInfo
from services.api.dependencies import Gateway
from services.api.files import service as files


@dataclass(frozen=True)
class JobPrompt:
    """A prompt, how many samples of it are wanted, and the line that it is first found in."""

    prompt: TeacherPrompt
    samples: int
    location: RowLocation

    @property
    def text(self) -> str:
        return self.prompt.text


def iter_prompts(store: Store, spec: JobSpec, form: PromptForm) -> Iterator[JobPrompt]:
    """Each prompt that is asked at all."""
    location = RowLocation("training_file", 0)
    max_new_tokens = spec.settings.rationales.max_new_tokens
    fields = spec.settings.task.fields

    def iter_questions(param: str, file: str | None) -> Iterator[Question]:
        nonlocal location
        for row in files.iter_rows(store, file, fields) if file else ():
            location = RowLocation(param, row.line_number)
            yield row.question

    for question, samples in sampling_plan.iter_sample_counts(
        spec.settings.rationales,
        iter_questions("training_file", spec.training_file),
        iter_questions("test_file", spec.test_file),
    ):
        if samples:
            prompt = build_teacher_prompt(spec.settings.task, question, form, max_new_tokens)
            yield JobPrompt(prompt, samples, location)


def find_generations(
    gateway: Gateway, spec: JobSpec, info: TeacherInfo, form: PromptForm, keys: Collection[str]
) -> dict[str, Generation]:
    """Outputs with these keys that the teacher has given already, for whichever job."""
    cache = GenerationCache(
        gateway.store,
        gateway.shared.generation_buffer,
        teacher=info.fingerprint,
        sampling=SamplingParams.from_spec(spec.settings.rationales, form.style).fingerprint,
    )
    return cache.find_many(keys)
