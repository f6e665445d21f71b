"""Read and validate the YAML spec of a job or a study, and locate its files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcrd.cli.yaml_source import YamlSource, read_yaml
from qcrd.errors import Invalid
from qcrd.questions.openai_request import translate_request
from qcrd.questions.rows import check_records
from qcrd.records.base import Record, parse_record
from qcrd.records.job import DataSummary
from qcrd.records.specs.spec import JobSpec
from qcrd.records.specs.study_spec import StudySpec

FILE_ID = re.compile(r"file-[0-9a-f]{24}")
FILE_FIELDS = ("training_file", "validation_file", "test_file")


@dataclass(frozen=True)
class SpecFile:
    """A field of the spec that names a local file, and the file's path."""

    field: str
    path: Path


@dataclass(frozen=True)
class SpecDraft:
    """A spec whose `files` are not uploaded yet."""

    body: dict[str, Any]
    files: tuple[SpecFile, ...]
    translated: dict[str, Any] | None = None
    """The job that a gateway would make of `body`, where that is a request of OpenAI's."""

    def with_file_ids(self, ids: Mapping[Path, str]) -> dict[str, Any]:
        """The request body, with each path replaced by its file's id."""
        body: dict[str, Any] = self.body
        for item in self.files:
            body = _replace_at(body, item.field.split("."), ids[item.path])
        return body


def read_job_spec(spec: Path, data: Path | None, *, training: Path | None = None) -> SpecDraft:
    """`Invalid`, with the field and the fix, for an error in the spec or a missing file. A request
    of OpenAI's becomes the job that the gateway would make of it. `training` stands in for the
    training file, and for outputs that are imported from it."""
    source, given = _read_spec(spec)
    if training is not None:
        source, given = _replace_training(source, given, training.name)
    if "job" in given and "methods" in given:
        raise Invalid(f"SPEC: {spec} holds a study and no job: run it with `qcrd study {spec}`")
    folder = _choose_folder(spec, data)
    body = translate_request(given, lambda name: _describe_file(folder, name), {})
    is_openai = given.get("method") != body.get("method")
    if is_openai:
        parse_record(JobSpec, body)
    else:
        _check_record(JobSpec, source)
    found = _find_files(spec, data, _iter_file_fields(given))
    return SpecDraft(given, found, body if is_openai else None)


def _replace_training(
    source: YamlSource, body: dict[str, Any], name: str
) -> tuple[YamlSource, dict[str, Any]]:
    """Only the training file is left of the files that are held out."""
    before = body.get("training_file")
    for field, value in [*_iter_file_fields(body)]:
        if field in FILE_FIELDS or value == before:
            body = _replace_at(body, field.split("."), name if value == before else None)
    body = {**body, "training_file": name}
    return YamlSource(body, source.root), body


def _describe_file(folder: Path, name: str) -> DataSummary:
    """What the gateway would find when the file is uploaded; of one that is there already the
    command line knows nothing."""
    path = folder / Path(name).expanduser()
    if FILE_ID.fullmatch(name) or not path.is_file():
        return DataSummary()
    with path.open("rb") as data:
        return check_records(data).make_record("")


def read_study_spec(spec: Path, data: Path | None) -> SpecDraft:
    """The same for a study; its files are those of its `job`, and what its rows import."""
    source, body = _read_spec(spec)
    if "job" not in body and "training_file" in body:
        raise Invalid(f"SPEC: {spec} holds a job and no study: follow it with `qcrd run {spec}`")
    _check_record(StudySpec, source)
    fields = [(f"job.{field}", value) for field, value in _iter_file_fields(body["job"])]
    fields += _iter_row_imports(body["methods"])
    return SpecDraft(body, _find_files(spec, data, fields))


def _iter_row_imports(methods: list[Any]) -> Iterator[tuple[str, str]]:
    for place, row in enumerate(methods):
        settings = row.get("settings", {}) if isinstance(row, dict) else {}
        imported = (settings.get("rationales") or {}).get("import")
        if imported is not None:
            yield f"methods.{place}.settings.rationales.import", imported


def _find_files(
    spec: Path, data: Path | None, fields: Iterable[tuple[str, str]]
) -> tuple[SpecFile, ...]:
    folder = _choose_folder(spec, data)
    return tuple(
        SpecFile(field, _find_file(field, value, folder, data_given=data is not None))
        for field, value in fields
        if not FILE_ID.fullmatch(value)
    )


def _choose_folder(spec: Path, data: Path | None) -> Path:
    return spec.absolute().parent if data is None else _check_data_folder(data)


def _read_spec(spec: Path) -> tuple[YamlSource, dict[str, Any]]:
    source = read_yaml(spec)
    if not isinstance(source.value, dict):
        raise Invalid(
            f"SPEC: {spec} holds no job: expected keys such as `model` and `training_file`, "
            "or `job` and `methods` in a study"
        )
    return source, source.value


def _check_record(record: type[Record], source: YamlSource) -> None:
    """`Invalid` for a value that is no `record`. Where YAML read a word as something other than
    text, the error says so."""
    try:
        parse_record(record, source.value)
    except Invalid as error:
        param = error.param or ""
        explained = source.explain_type(param) or source.explain_type(f"job.{param}")
        if explained is None or "valid string" not in error.message:
            raise
        raise Invalid(f"`{param}`: {explained}", param=param, code=error.code) from error


def _check_data_folder(data: Path) -> Path:
    if not data.is_dir():
        raise Invalid(f"--data: there is no folder {data}: name the one that holds the job's files")
    if not any(data.iterdir()):
        raise Invalid(f"--data: the folder {data} is empty: put the job's files there")
    return data.absolute()


def _iter_file_fields(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for field in FILE_FIELDS:
        if body.get(field) is not None:
            yield field, body[field]
    method = body.get("method") or {}
    kind = method.get("type", "qcrd")
    imported = ((method.get(kind) or {}).get("rationales") or {}).get("import")
    if imported is not None:
        yield f"method.{kind}.rationales.import", imported


def _find_file(field: str, value: str, folder: Path, *, data_given: bool) -> Path:
    path = folder / Path(value).expanduser()
    if path.is_file():
        if path.stat().st_size == 0:
            raise Invalid(f"`{field}`: the file {path} is empty", param=field)
        return path
    fix = "put it there" if data_given else "put it there, or name its folder with --data"
    raise Invalid(f"`{field}`: there is no file {path}: {fix}", param=field, code="file_not_found")


def _replace_at(body: Any, path: list[str], value: str | None) -> Any:
    """`body`, of mappings and lists, with `value` at the path."""
    key, *rest = path
    if isinstance(body, list):
        place = int(key)
        return [*body[:place], _replace_at(body[place], rest, value), *body[place + 1 :]]
    return {**body, key: _replace_at(body[key], rest, value) if rest else value}
