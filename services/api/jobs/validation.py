"""What must be true of a spec and its files before any teacher token is spent on the job."""

from __future__ import annotations

from collections.abc import Iterable

from qcrd.errors import Invalid, NotFound
from qcrd.method.answers import canonicalize
from qcrd.method.training.objectives import OBJECTIVES
from qcrd.records.spec import AnswerKind, Budget, JobSpec, MethodSpec, NegativeSource, TaskSpec
from qcrd.runtime.storage.store import Store
from services.api.assembling import sampling_plan
from services.api.dependencies import GatewaySettings
from services.api.files import service as files
from services.api.files.duplicates import DuplicateIndex
from services.api.files.questions import QuestionRow, make_line_error
from services.api.jobs.unsupported_models import check_head
from services.api.jobs.validation_cache import Verdicts
from services.api.models import service as models
from services.api.webhooks.signing import check_webhook

FEWEST_TRAINING = 2
"""Questions that must be left to train on: with one, a batch has nothing to contrast."""


def check(spec: JobSpec, store: Store, settings: GatewaySettings, verdicts: Verdicts) -> None:
    """`Invalid`, naming the field and the fix, at the first thing that is wrong.

    Files are read line by line, and each only once for all jobs with the same kind of task.
    """
    for param, file_id in files.get_referenced_files(spec).items():
        _there(store, file_id, param)
    _apart(spec)
    _teacher(spec, settings)
    check_webhook(spec.webhook, settings.webhooks)
    _consistent(spec)
    _bases(spec, store, settings)
    questions = _questions(spec, "training_file", store, verdicts)
    _enough(questions, spec.settings, own_validation=spec.validation_file is not None)
    for param in ("validation_file", "test_file"):
        _questions(spec, param, store, verdicts)
    _import(spec, store, verdicts)


def _there(store: Store, file_id: str, param: str) -> None:
    """In a spec a file that is missing is a wrong value, not a wrong address."""
    try:
        files.get_file(store, file_id, param)
    except NotFound as error:
        raise Invalid(error.message, param=param, code=error.code) from error


def _apart(spec: JobSpec) -> None:
    """Ids are digests of content, so this also finds the same questions uploaded twice."""
    roles = {"training_file": "trained on", "validation_file": "validated on"}
    used: dict[str, str] = {}
    for param in ("training_file", "validation_file", "test_file"):
        file_id = getattr(spec, param)
        if file_id is None:
            continue
        if (earlier := used.setdefault(file_id, param)) != param:
            raise Invalid(
                f"`{param}` is the same file as `{earlier}`: what is {roles[earlier]} says "
                "nothing about new questions; give questions of their own",
                param=param,
                code="same_file",
            )


def _teacher(spec: JobSpec, settings: GatewaySettings) -> None:
    known = settings.teachers.teachers
    if sampling_plan.asks_teacher(spec) and spec.settings.teacher not in known:
        param = f"method.{spec.method}.teacher"
        raise Invalid(
            f"`{param}`: no teacher is named {spec.settings.teacher!r}; this server has "
            f"{_listed(known)} (setting QCRD_TEACHERS)",
            param=param,
            code="unknown_teacher",
        )
    check_budget(spec, spec.budget, settings)


def check_budget(spec: JobSpec, budget: Budget, settings: GatewaySettings) -> None:
    """`Invalid` for a limit of costs that nobody could keep to."""
    teacher = settings.teachers.teachers.get(spec.settings.teacher)
    if (
        budget.cost is not None
        and sampling_plan.asks_teacher(spec)
        and teacher
        and not teacher.has_prices
    ):
        raise Invalid(
            f"`budget.cost`: teacher {spec.settings.teacher!r} has no prices here "
            "(`prompt_price` and `completion_price` in the setting QCRD_TEACHERS), so its cost is "
            "not known: limit `budget.teacher_tokens` instead",
            param="budget.cost",
            code="no_prices",
        )


def _consistent(spec: JobSpec) -> None:
    rationales, path = spec.settings.rationales, f"method.{spec.method}"
    if spec.settings.label_mode == "llm" and rationales.positive_rule != "majority":
        raise Invalid(
            f"`{path}.rationales.positive_rule`: {rationales.positive_rule} needs gold labels, "
            "and label mode `llm` has none: use `majority`",
            param=f"{path}.rationales.positive_rule",
        )
    if rationales.imported_answer == "label" and spec.settings.label_mode == "llm":
        raise Invalid(
            f"`{path}.rationales.imported_answer`: `label` takes answers from gold labels, "
            "and label mode `llm` has none: use `parsed`",
            param=f"{path}.rationales.imported_answer",
        )
    _lag_is_reached(spec)
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


def _lag_is_reached(spec: JobSpec) -> None:
    """Otherwise all negatives would be the untrained student's, whatever the lag says."""
    settings, path = spec.settings, f"method.{spec.method}"
    lag, iterations = settings.negatives.lag, settings.hyperparameters.iterations
    rows = (spec.method.value, *(row.value for row in settings.baselines))
    sampled = any(OBJECTIVES[row].uses_negatives for row in rows)
    if sampled and NegativeSource.STUDENT_LAG in settings.negatives.source and lag >= iterations:
        lower = f"lower the lag to at most {iterations - 1}, " if iterations > 1 else ""
        raise Invalid(
            f"`{path}.negatives.lag` is {lag}, but `{path}.hyperparameters.iterations` is only "
            f"{iterations}: no iteration could look that far back; {lower}raise the iterations to "
            f"at least {lag + 1}, or take `negatives.source: fixed`",
            param=f"{path}.negatives.lag",
            code="lag_not_reached",
        )


def _bases(spec: JobSpec, store: Store, settings: GatewaySettings) -> None:
    named = {
        "model": spec.model,
        f"method.{spec.method}.discriminator.encoder": spec.settings.discriminator.encoder,
        f"method.{spec.method}.negatives.checkpoint": spec.settings.negatives.checkpoint,
    }
    for param, name in named.items():
        if name is not None:
            config = models.check_base(name, settings.models, store, param)
            if param == "model":
                check_head(name, config, param)


def _questions(spec: JobSpec, param: str, store: Store, verdicts: Verdicts) -> int:
    """How many questions the file that field `param` names has; `Invalid` where one of them does
    not fit the task."""
    file_id, task = getattr(spec, param), spec.settings.task
    if file_id is None:
        return 0
    gold = spec.settings.label_mode == "gold" or param != "training_file"
    asked = (file_id, param, gold, task.answer, task.labels)
    return verdicts.of(asked, lambda: _fitting(files.iter_rows(store, file_id), task, param, gold))


def _fitting(rows: Iterable[QuestionRow], task: TaskSpec, param: str, gold: bool) -> int:
    """Every label is one that an answer to this task can be; and is there, if `gold` is needed."""
    count = 0
    for row in rows:
        count += 1
        if gold and row.question.label is None:
            raise make_line_error(
                row.line_number,
                f'`label` is missing: give the right answer, "label": "…" (in `{param}`)',
                code="missing_label",
                param=param,
            )
        _with_choices(row, task, param)
        _labelled(row, task, param)
    return count


def _labelled(row: QuestionRow, task: TaskSpec, param: str) -> None:
    label = row.question.label
    if label is not None and canonicalize(label, task, row.question) is None:
        raise make_line_error(
            row.line_number,
            f"label {label[:80]!r} is not {_expected(task, row)} (in `{param}`)",
            code="invalid_label",
            param=param,
        )


def _with_choices(row: QuestionRow, task: TaskSpec, param: str) -> None:
    if task.answer is AnswerKind.CHOICE and not row.question.choices:
        raise make_line_error(
            row.line_number,
            f'`choices` is missing: answer kind `choice` needs "choices": […] (in `{param}`)',
            code="missing_choices",
            param=param,
        )


def _expected(task: TaskSpec, row: QuestionRow) -> str:
    match task.answer:
        case AnswerKind.NUMBER:
            return "a number or an arithmetic expression"
        case AnswerKind.LABEL:
            return f"one of the task's labels: {_listed(task.labels)}"
        case AnswerKind.CHOICE:
            return f"one of the question's choices: {_listed(row.question.choices)}"
        case AnswerKind.TEXT:
            return "a word: it has only articles, quotes or punctuation"


def _enough(count: int, settings: MethodSpec, *, own_validation: bool) -> None:
    share = settings.hyperparameters.validation_share
    held_back = 0 if own_validation else max(1, round(count * share))
    if count - held_back < FEWEST_TRAINING:
        kept = "" if own_validation else f" besides the {held_back} held back for validation"
        raise Invalid(
            f"`training_file` has {count} question(s): at least {FEWEST_TRAINING} are needed to "
            f"train on{kept}; add questions",
            param="training_file",
            code="too_few_questions",
        )


def _import(spec: JobSpec, store: Store, verdicts: Verdicts) -> None:
    file_id, training = spec.settings.rationales.import_file, spec.training_file
    if file_id is None:
        return
    param = f"method.{spec.method}.rationales.import"
    asked = (file_id, param, training)
    verdicts.of(asked, lambda: _answering(store, file_id, training, param))


def _answering(store: Store, file_id: str, training: str, param: str) -> int:
    """The line of the file's first output that is of a training question."""
    trained_on = DuplicateIndex()
    for row in files.iter_rows(store, training):
        trained_on.setdefault(row.question.id, row.line_number)
    outputs = 0
    for row in files.iter_rows(store, file_id):
        outputs += len(row.outputs)
        if row.outputs and row.question.id in trained_on:
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


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:20]) + (", …" if len(shown) > 20 else "") or "none"
