"""Checks of a spec and its files, before any teacher token is spent on the job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qcrd.errors import Invalid, NotFound
from qcrd.method.training.objectives import OBJECTIVES
from qcrd.questions.duplicates import DuplicateIndex
from qcrd.questions.field_map import FieldMap
from qcrd.questions.label_checks import check_task_labels, format_names
from qcrd.questions.row_checks import check_enough_questions, check_rows, needs_labels
from qcrd.records.base_models import gets_new_decoder
from qcrd.records.specs.spec import Budget, JobSpec
from qcrd.records.specs.training_spec import NegativeSource
from qcrd.runtime.storage.store import Store
from services.api.assembling import sampling_plan
from services.api.dependencies import Gateway, GatewaySettings
from services.api.files import service as files
from services.api.jobs.checks.batch_checks import check_batch_routes
from services.api.jobs.checks.evaluation_checks import check_evaluation
from services.api.jobs.checks.teacher_checks import check_teacher_takes_requests
from services.api.jobs.checks.unread_fields import check_unread_fields
from services.api.jobs.checks.unsupported_models import check_language_model_head
from services.api.jobs.checks.validation_cache import ValidationCache
from services.api.models.base_models import BaseModelCatalog
from services.api.webhooks.signing import check_webhook_url


def validate_job_spec(
    spec: JobSpec, gateway: Gateway, cache: ValidationCache, also_read_by: Sequence[str] = ()
) -> None:
    """`Invalid`, naming the field and the fix, at the first thing that is wrong. `also_read_by`:
    the methods of a study, whose rows have its settings too.

    Files are read line by line, and each only once for all jobs with the same kind of task.
    """
    store, settings = gateway.store, gateway.settings
    for param, file_id in files.get_referenced_files(spec).items():
        _check_file_exists(store, file_id, param)
    _check_files_differ(spec)
    _check_teacher(spec, settings)
    check_teacher_takes_requests(spec, gateway)
    check_batch_routes(spec, settings.teachers.teachers.get(spec.settings.teacher))
    check_webhook_url(spec.webhook, settings.webhooks)
    _check_consistency(spec, also_read_by)
    check_evaluation(spec, settings.teachers.teachers)
    check_unread_fields(spec, also_read_by)
    check_task_labels(spec)
    _check_base_models(spec, gateway)
    questions = _count_valid_questions(spec, "training_file", store, cache)
    check_enough_questions(
        questions, spec.settings, own_validation=spec.validation_file is not None
    )
    for param in ("validation_file", "test_file"):
        _count_valid_questions(spec, param, store, cache)
    _check_import_file(spec, store, cache)


def _check_file_exists(store: Store, file_id: str, param: str) -> None:
    """The file's record. A missing file in a spec is an invalid value: 400, not 404."""
    try:
        files.get_file(store, file_id, param)
    except NotFound as error:
        raise Invalid(error.message, param=param, code=error.code) from error


def _check_files_differ(spec: JobSpec) -> None:
    """`Invalid` when one file has two roles; ids are digests, so equal uploads are found too."""
    roles = {"training_file": "trained on", "validation_file": "validated on"}
    param_by_file: dict[str, str] = {}
    for param in ("training_file", "validation_file", "test_file"):
        file_id = getattr(spec, param)
        if file_id is None:
            continue
        if (earlier := param_by_file.setdefault(file_id, param)) != param:
            raise Invalid(
                f"`{param}` is the same file as `{earlier}`: what is {roles[earlier]} says "
                "nothing about new questions; give questions of their own",
                param=param,
                code="same_file",
            )


def _check_teacher(spec: JobSpec, settings: GatewaySettings) -> None:
    teachers = settings.teachers.teachers
    if sampling_plan.asks_teacher(spec) and spec.settings.teacher not in teachers:
        param = f"method.{spec.method}.teacher"
        raise Invalid(
            f"`{param}`: no teacher is named {spec.settings.teacher!r}; this server has "
            f"{format_names(teachers)} (setting QCRD_TEACHERS)",
            param=param,
            code="unknown_teacher",
        )
    check_budget(spec, spec.budget, settings)


def check_budget(spec: JobSpec, budget: Budget, settings: GatewaySettings) -> None:
    """`Invalid` for a cost limit on a teacher without prices."""
    teacher = settings.teachers.teachers.get(spec.settings.teacher)
    if (
        budget.cost is not None
        and sampling_plan.asks_teacher(spec)
        and teacher
        and teacher.prices is None
    ):
        raise Invalid(
            f"`budget.cost`: teacher {spec.settings.teacher!r} has no prices here "
            "(`prompt_price` and `completion_price` in the setting QCRD_TEACHERS, and none in the "
            "bundled list), so its cost is not known: limit `budget.teacher_tokens` instead",
            param="budget.cost",
            code="no_prices",
        )


def _check_consistency(spec: JobSpec, also_read_by: Sequence[str]) -> None:
    rationales, path = spec.settings.rationales, f"method.{spec.method}"
    if spec.settings.label_mode == "llm" and "gold" in rationales.positive_rule:
        raise Invalid(
            f"`{path}.rationales.positive_rule`: {rationales.positive_rule} needs gold labels, "
            "and label mode `llm` has none: use `majority`",
            param=f"{path}.rationales.positive_rule",
        )
    if "label" in (rationales.answers, rationales.imported_answer) and (
        spec.settings.label_mode == "llm"
    ):
        field = "answers" if rationales.answers == "label" else "imported_answer"
        raise Invalid(
            f"`{path}.rationales.{field}`: `label` takes answers from gold labels, and label mode "
            "`llm` has none: use `answers: parse`",
            param=f"{path}.rationales.{field}",
        )
    _check_lag_reachable(spec)
    _check_answers(spec, also_read_by)
    negatives, lora = spec.settings.negatives, spec.settings.student.lora
    if negatives.checkpoint is not None and NegativeSource.FIXED not in negatives.source:
        raise Invalid(
            f"`{path}.negatives.checkpoint` is only read by the source `fixed`, which "
            f"`{path}.negatives.source` does not name: add it, or leave the checkpoint out",
            param=f"{path}.negatives.checkpoint",
        )
    if negatives.checkpoint is not None and lora is not None:
        raise Invalid(
            f"`{path}.negatives.checkpoint`: a published model has no adapters to put into a "
            f"student with `{path}.student.lora`: leave one of the two out",
            param=f"{path}.negatives.checkpoint",
        )


def _check_chat(spec: JobSpec, config: Mapping[str, Any]) -> None:
    """Before the teacher is paid: the trainer would find it too."""
    reads_apart = gets_new_decoder(config) or config.get("is_encoder_decoder")
    if spec.settings.student.prompt == "chat" and reads_apart:
        param = f"method.{spec.method}.student.prompt"
        raise Invalid(
            f"`{param}`: {spec.model!r} has an encoder, and only decoder-only bases have a chat to "
            "be asked in; leave it out",
            param=param,
            code="no_chat_form",
        )


def _check_answers(spec: JobSpec, also_read_by: Sequence[str]) -> None:
    methods = (spec.method.value, *(row.value for row in spec.settings.baselines), *also_read_by)
    if spec.settings.student.answers == "label":
        return
    if all(OBJECTIVES[row].max_positives == 0 for row in methods):
        param = f"method.{spec.method}.student.answers"
        raise Invalid(
            f"`{param}`: {spec.method.value} learns no rationale to answer from; leave it out, or "
            "take a method with rationales, such as `dss`",
            param=param,
            code="no_rationales_to_learn",
        )


def _check_lag_reachable(spec: JobSpec) -> None:
    """`Invalid` for an unreachable lag: all negatives would be the untrained student's."""
    settings, path = spec.settings, f"method.{spec.method}"
    lag, iterations = settings.negatives.lag, settings.hyperparameters.iterations
    if settings.hyperparameters.iteration_steps is None:
        return  # iterations are then as short as the lag needs
    methods = (spec.method.value, *(row.value for row in settings.baselines))
    uses_negatives = any(OBJECTIVES[row].uses_negatives for row in methods)
    if (
        uses_negatives
        and NegativeSource.STUDENT_LAG in settings.negatives.source
        and lag >= iterations
    ):
        # One less than the iterations reaches the untrained student alone, of which there is a
        # warning.
        advice = f"lower the lag to at most {iterations - 2}, " if iterations > 2 else ""
        raise Invalid(
            f"`{path}.negatives.lag` is {lag}, but `{path}.hyperparameters.iterations` is only "
            f"{iterations}: no iteration could look that far back; {advice}raise the iterations to "
            f"at least {lag + 2}, or take `negatives.source: fixed`",
            param=f"{path}.negatives.lag",
            code="lag_not_reached",
        )


def _check_base_models(spec: JobSpec, gateway: Gateway) -> None:
    catalog = BaseModelCatalog(
        gateway.settings.models,
        gateway.store,
        gateway.shared.base_model_reports,
        gateway.model_hub,
    )
    names_by_param = {
        "model": spec.model,
        f"method.{spec.method}.discriminator.encoder": spec.settings.discriminator.encoder,
        f"method.{spec.method}.negatives.checkpoint": spec.settings.negatives.checkpoint,
    }
    for param, name in names_by_param.items():
        if name is not None:
            config = catalog.get_config(name, param)
            if param == "model":
                check_language_model_head(name, config, param)
                _check_chat(spec, config)


def _count_valid_questions(spec: JobSpec, param: str, store: Store, cache: ValidationCache) -> int:
    """The number of questions in the file that field `param` names; `Invalid` where one does not
    fit the task."""
    file_id, task = getattr(spec, param), spec.settings.task
    if file_id is None:
        return 0
    needs_label = needs_labels(spec.settings, param)
    cache_key = (file_id, param, needs_label, task.answer, task.labels, repr(task.fields))
    return cache.get_or_validate(
        cache_key,
        lambda: sum(
            1
            for _ in check_rows(
                files.iter_rows(store, file_id, task.fields), task, param, needs_label=needs_label
            )
        ),
    )


def _check_import_file(spec: JobSpec, store: Store, cache: ValidationCache) -> None:
    file_id, training = spec.settings.rationales.import_file, spec.training_file
    if file_id is None:
        return
    param = f"method.{spec.method}.rationales.import"
    fields = spec.settings.task.fields
    cache_key = (file_id, param, training, repr(fields))
    cache.get_or_validate(
        cache_key, lambda: _find_matching_output_line(store, file_id, training, param, fields)
    )


def _find_matching_output_line(
    store: Store, file_id: str, training: str, param: str, fields: FieldMap
) -> int:
    """The line of the file's first output for a training question."""
    training_ids = DuplicateIndex()
    for row in files.iter_rows(store, training, fields):
        training_ids.setdefault(row.question.id, row.line_number)
    outputs = 0
    for row in files.iter_rows(store, file_id, fields):
        outputs += len(row.outputs)
        if row.outputs and row.question.id in training_ids:
            return row.line_number
    if not outputs:
        raise Invalid(
            f"`{param}`: file {file_id} has no teacher outputs: each line needs "
            "`teacher_output` (text) or `teacher_outputs` (list)",
            param=param,
            code="no_outputs",
        )
    raise Invalid(
        f"`{param}`: file {file_id} answers none of the training questions: lines are "
        "matched by the text of `question` and `choices`",
        param=param,
        code="no_match",
    )
