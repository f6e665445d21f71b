"""Publishing: the student's folder and model card, uploaded with its manifest last."""

from __future__ import annotations

import copy
import json
import tempfile
import time
from pathlib import Path

from qcrd.method.prompts import EXPLAIN_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.student.lora import has_adapters, merge_adapters, save_adapters
from qcrd.method.training.objectives import get_objective
from qcrd.records.job import Job, PublishedModel, Report
from qcrd.records.students.prompt_format import (
    ADAPTER_FOLDER,
    PROMPT_FORMAT_FILE,
    AnswerJudge,
    PromptFormat,
)
from qcrd.runtime import keys
from qcrd.runtime.storage.published_models import add_published_model
from qcrd.runtime.storage.store import Store, read_record, write_record
from services.trainer.results import older_readers
from services.trainer.results.answering import StudentAnswers
from services.trainer.results.chat_template import render_chat_template
from services.trainer.results.model_card import render_model_card

MODEL_CARD_FILE = "README.md"


def model_id(job_id: str) -> str:
    """The id of the model that the job publishes."""
    return keys.make_model_id(job_id)


def upload_model(store: Store, job: Job, student: Student, answers: StudentAnswers) -> None:
    """Upload weights, tokenizer and prompt format, and what a LoRA student learned apart from its
    base. `publish_model` makes it a model."""
    with tempfile.TemporaryDirectory(prefix="qcrd-model-") as scratch:
        folder = Path(scratch)
        merge_adapters(student.model).save_pretrained(folder)
        prompt_format = make_prompt_format(job, student, answers)
        _save_tokenizer(student, prompt_format, folder)
        older_readers.adapt(folder)
        (folder / PROMPT_FORMAT_FILE).write_text(prompt_format.model_dump_json(indent=1))
        if has_adapters(student.model):
            save_adapters(student.model, folder / ADAPTER_FOLDER, base=job.spec.model)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            with path.open("rb") as source:
                name = path.relative_to(folder).as_posix()
                key = keys.model_prefix(model_id(job.id)) + name
                store.put(key, source, length=path.stat().st_size)


def _save_tokenizer(student: Student, prompt_format: PromptFormat, folder: Path) -> None:
    """The tokenizer with the chat template that asks as the student was trained."""
    tokenizer = copy.copy(student.tokenizer)
    if not student.model.config.is_encoder_decoder:
        tokenizer.chat_template = render_chat_template(prompt_format, student.find_frame())
    tokenizer.save_pretrained(folder)


def make_prompt_format(job: Job, student: Student, answers: StudentAnswers) -> PromptFormat:
    """The prompt format that the student was trained with, for its clients."""
    settings = job.spec.settings
    objective = get_objective(job.spec.method, settings.student.answers)
    before, after = ("", student.suffix)
    if student.chat is not None:
        before, after = student.chat.before, student.chat.after
    enforced = () if objective.predicts else settings.enforced_labels
    explains_apart = objective.max_positives != 0 and not objective.reasons
    return PromptFormat(
        predict=before + objective.answer_prefix,
        explain=before + EXPLAIN_PREFIX if explains_apart else None,
        suffix=after,
        max_label_tokens=settings.hyperparameters.max_label_tokens,
        max_rationale_tokens=settings.hyperparameters.max_rationale_tokens,
        answer=settings.task.answer,
        labels=settings.task.labels,
        conversation=settings.task.conversation,
        joined=objective.says_both,
        control_tokens=student.control_tokens,
        answer_form=student.make_answer_form(enforced) if enforced else None,
        confidence=answers.confidence,
        vote_confidence=answers.vote_confidence,
        judge=_describe_judge(answers),
    )


def _describe_judge(answers: StudentAnswers) -> AnswerJudge | None:
    judged = None if answers.report is None else answers.report.judged
    if judged is None:
        return None
    return AnswerJudge(id=judged.judge, version=judged.version, reason=judged.reason)


def publish_model(store: Store, job: Job, report: Report) -> PublishedModel:
    """Write the card, then the manifest, with which the model exists."""
    prefix = keys.model_prefix(model_id(job.id))
    prompt_format = read_record(store, prefix + PROMPT_FORMAT_FILE, PromptFormat)
    with store.open(prefix + "config.json") as source:
        config = json.load(source)
    card = render_model_card(
        job, report, prompt_format, is_encoder_decoder=bool(config.get("is_encoder_decoder"))
    )
    store.put(prefix + MODEL_CARD_FILE, card.encode())
    names = [key.removeprefix(prefix) for key in store.list(prefix)]
    manifest = keys.model_manifest_key(model_id(job.id)).removeprefix(prefix)
    model = PublishedModel(
        id=model_id(job.id),
        job_id=job.id,
        created_at=time.time(),
        base=job.spec.model,
        files=tuple(name for name in names if name != manifest),
    )
    add_published_model(store, model)
    write_record(store, keys.model_manifest_key(model.id), model)
    return model
