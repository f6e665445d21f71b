"""The form of a job's prompts: by what its spec names, and what its teacher is."""

from __future__ import annotations

from qcrd.records.specs.rationale_spec import RationaleSpec
from qcrd.records.teachers.prompt import PromptForm, PromptStyle
from services.api.assembling.teacher.teacher_client import TeacherInfo
from services.api.settings import TeacherConfig


def choose_prompt_form(
    spec: RationaleSpec, teacher: TeacherConfig, info: TeacherInfo | None
) -> PromptForm:
    """The style that the job names, or else its teacher's configuration, or else its protocol: what
    speaks OpenAI's is a chat model, what speaks TGI's continues a text. And what enforces the
    answer's form; `info` None: of the teacher nothing is known."""
    named = next((each for each in (spec.prompt, teacher.prompt) if each != "auto"), None)
    style: PromptStyle = named or ("chat" if teacher.api == "openai" else "completion")
    return make_prompt_form(spec, style, info)


def list_prompt_forms(
    spec: RationaleSpec, teacher: TeacherConfig, info: TeacherInfo | None
) -> list[PromptForm]:
    """The form that the teacher is asked in first, and the one that a refusal of it leads to."""
    first = choose_prompt_form(spec, teacher, info)
    if {spec.prompt, teacher.prompt} != {"auto"}:
        return [first]
    other: PromptStyle = "chat" if first.style == "completion" else "completion"
    return [first, make_prompt_form(spec, other, info)]


def make_prompt_form(
    spec: RationaleSpec, style: PromptStyle, info: TeacherInfo | None
) -> PromptForm:
    if spec.format == "free":
        return PromptForm(style)
    if style == "completion":
        return PromptForm(style, "grammar" if info is not None and info.has_grammar else "none")
    is_enforced = info is not None and info.enforces_schema
    wants_json = spec.format == "json" or (spec.format == "auto" and is_enforced)
    return PromptForm(style, "schema" if wants_json else "none")
