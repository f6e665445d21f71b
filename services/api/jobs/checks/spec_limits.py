"""How large a job's spec may be. It is part of the job's record, which every heartbeat rewrites and
every list reads, so it is bounded where it comes in; specs that were taken before are read as they
are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from qcrd.errors import Invalid
from qcrd.records.specs.spec import JobSpec
from qcrd.records.specs.task import QuestionField

MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512
"""The three are OpenAI's."""
MAX_NAME_CHARS = 256
"""Of a model's name, a file's or job's id, and one label."""
MAX_LABELS = 2_000
MAX_EXAMPLES = 64
MAX_COLUMNS = 32
"""Of one field of a question that is put together from them."""
MAX_STOP_CHARS = 256
MAX_TEXT_CHARS = 16_384
"""Of the instruction, and of each text of a worked example."""
MAX_SPEC_BYTES = 65_536
"""Of the whole spec as JSON."""
LISTED_TASK_BYTES = 2_048
"""Of `task`'s texts in a list of jobs; longer ones are shown by the job itself only."""


def check_spec_size(spec: JobSpec, param_prefix: str = "") -> None:
    """`Invalid` at the first field that is larger than jobs may have; `param_prefix` is put before
    its path."""
    _check_field_names(spec, param_prefix)
    for param, what, size, limit in _measure(spec):
        if size > limit:
            path = param_prefix + param
            raise Invalid(
                f"`{path}` has {size:,} {what}, more than {limit:,}", param=path, code="too_large"
            )
    size = len(spec.model_dump_json().encode())
    if size > MAX_SPEC_BYTES:
        raise Invalid(
            f"the job has {size:,} bytes, more than {MAX_SPEC_BYTES:,}: shorten `instruction`, "
            "`labels` or `examples`; texts of data belong into its files",
            code="too_large",
        )


def _check_field_names(spec: JobSpec, param_prefix: str) -> None:
    """Here and not in the record, which reads what a later release may store."""
    known = get_args(QuestionField)
    for name in spec.settings.task.fields:
        if name not in known:
            path = f"{param_prefix}method.{spec.method}.task.fields.{name[:80]}"
            raise Invalid(
                f"unknown key `{path}`: a question has {', '.join(f'`{k}`' for k in known)}",
                param=path,
                code="unknown_key",
            )


def shorten_method(method: Mapping[str, Any]) -> dict[str, Any]:
    """`method` as a list shows it: without the task's texts where they are long."""
    kind = method["type"]
    task = method[kind]["task"]
    texts = {name: task[name] for name in ("instruction", "labels", "examples", "fields")}
    if len(str(texts).encode()) <= LISTED_TASK_BYTES:
        return dict(method)
    short = {name: value for name, value in task.items() if name not in texts}
    return {**method, kind: {**method[kind], "task": short}}


def _measure(spec: JobSpec) -> Iterator[tuple[str, str, int, int]]:
    """Field, what is counted, how many there are, and how many there may be."""
    names = {
        "model": spec.model,
        "training_file": spec.training_file,
        "validation_file": spec.validation_file,
        "test_file": spec.test_file,
        "knowledge_of": spec.knowledge_of,
        "after": spec.after,
        f"method.{spec.method}.teacher": spec.settings.teacher,
        f"method.{spec.method}.rationales.import": spec.settings.rationales.import_file,
        f"method.{spec.method}.negatives.checkpoint": spec.settings.negatives.checkpoint,
        f"method.{spec.method}.discriminator.encoder": spec.settings.discriminator.encoder,
    }
    for param, name in names.items():
        yield param, "characters", len(name or ""), MAX_NAME_CHARS
    yield from _measure_metadata(spec.metadata)
    yield from _measure_task(spec)
    for index, text in enumerate(spec.settings.rationales.stop):
        param = f"method.{spec.method}.rationales.stop.{index}"
        if not text:
            raise Invalid(
                f"`{param}` is empty, and would end every output before it begins: leave it out",
                param=param,
            )
        yield param, "characters", len(text), MAX_STOP_CHARS


def _measure_metadata(metadata: Mapping[str, str]) -> Iterator[tuple[str, str, int, int]]:
    yield "metadata", "pairs", len(metadata), MAX_METADATA_PAIRS
    for key, value in metadata.items():
        yield "metadata", "characters in a key", len(key), MAX_METADATA_KEY_CHARS
        yield f"metadata.{key}", "characters", len(value), MAX_METADATA_VALUE_CHARS


def _measure_task(spec: JobSpec) -> Iterator[tuple[str, str, int, int]]:
    path, task = f"method.{spec.method}.task", spec.settings.task
    yield f"{path}.instruction", "characters", len(task.instruction), MAX_TEXT_CHARS
    yield f"{path}.labels", "labels", len(task.labels), MAX_LABELS
    for index, label in enumerate(task.labels):
        yield f"{path}.labels.{index}", "characters", len(label), MAX_NAME_CHARS
    for field, source in task.fields.items():
        columns = (source,) if isinstance(source, str) else source
        yield f"{path}.fields.{field}", "columns", len(columns), MAX_COLUMNS
        for column in columns:
            yield f"{path}.fields.{field}", "characters", len(column), MAX_TEXT_CHARS
    yield f"{path}.examples", "examples", len(task.examples), MAX_EXAMPLES
    for index, example in enumerate(task.examples):
        for name, text in example.model_dump().items():
            yield f"{path}.examples.{index}.{name}", "characters", len(text), MAX_TEXT_CHARS
