"""JSON Schema of a job's spec in its REST and YAML form, and the page that describes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, get_args

from qcrd.records.specs.spec import JobSpec, MethodName, MethodSpec
from qcrd.records.specs.task import QuestionField

JSON = dict[str, Any]
SCHEMA_FILE = "spec.schema.json"
SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"
SECTIONS = (
    "TaskSpec",
    "RationaleSpec",
    "PositiveSpec",
    "NegativeSpec",
    "JudgeSpec",
    "LossSpec",
    "StudentSpec",
    "LoraSpec",
    "Hyperparameters",
    "EvaluationSpec",
    "FallbackSpec",
    "FewShotExample",
    "Budget",
    "IntegrationSpec",
    "TrackerRun",
)
BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
}


def read_spec_schema() -> str:
    """The schema as it is in the package, for editors and `GET /v1/spec.schema.json`."""
    return files(__package__).joinpath(SCHEMA_FILE).read_text(encoding="utf-8")


def build_spec_schema() -> JSON:
    """Unknown keys are refused, as by the server, and `method` names its body by its type."""
    schema = JobSpec.model_json_schema(by_alias=True)
    method = MethodSpec.model_json_schema(by_alias=True)
    definitions = {**schema.pop("$defs"), **method.pop("$defs")}
    definitions.pop("MethodName", None)
    definitions["MethodSpec"] = method
    properties = schema["properties"]
    del properties["settings"]
    properties["method"] = {
        "description": "The method, and its fields under its own name.",
        "type": "object",
        "required": ["type"],
        "additionalProperties": False,
        "properties": {"type": {"enum": [name.value for name in MethodName]}}
        | {name.value: {"$ref": "#/$defs/MethodSpec"} for name in MethodName},
    }
    source = definitions["NegativeSpec"]["properties"]["source"]
    listed = {name: source.pop(name) for name in ("type", "items")}
    source["anyOf"] = [listed, dict(listed["items"])]  # one may stand without a list
    fields = definitions["TaskSpec"]["properties"]["fields"]
    fields["propertyNames"] = {"enum": list(get_args(QuestionField))}
    schema["$defs"] = dict(sorted(definitions.items()))
    _close(schema)
    return {"$schema": SCHEMA_ID, "title": "qcrd job", **_drop_titles(schema)}


def _close(schema: Any) -> None:
    """Refuse unknown keys wherever fields are listed: records keep those that were stored."""
    for each in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(each, dict | list):
            _close(each)
    if isinstance(schema, dict) and "properties" in schema:
        schema["additionalProperties"] = False


def _drop_titles(schema: Any) -> Any:
    """Without the titles that are only the names again."""
    if isinstance(schema, list):
        return [_drop_titles(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _drop_titles(value)
        for name, value in schema.items()
        if name != "title" or not isinstance(value, str)
    }


def dump_spec_schema() -> str:
    return json.dumps(build_spec_schema(), indent=1, ensure_ascii=False) + "\n"


def render_reference() -> str:
    """The page of all fields: default, bounds, and what each is."""
    return "\n".join(_iter_lines(build_spec_schema())) + "\n"


def _iter_lines(schema: JSON) -> Iterator[str]:
    definitions = schema["$defs"]
    yield "# The spec of a job"
    yield ""
    yield "Written by `qcrd spec reference`; a test compares it with the records. The same as JSON"
    yield "Schema: `GET /v1/spec.schema.json`, `qcrd spec schema`, and"
    yield "`# yaml-language-server: $schema=URL` in the first line of a YAML file for editors."
    yield "`qcrd spec validate FILE` checks one without a server. Unknown keys are refused by path."
    yield from _iter_table("The job", schema, definitions)
    method = definitions["MethodSpec"]
    yield from _iter_table("`method.<type>`", method, definitions)
    names = _name_sections(method, schema)
    for name in SECTIONS:
        title = f"`{names[name]}`" if name in names else f"`{name}`"
        yield from _iter_table(title, definitions[name], definitions)


def _name_sections(method: JSON, schema: JSON) -> dict[str, str]:
    """Where each section stands in a spec."""
    found = {"FewShotExample": "task.examples", "LoraSpec": "student.lora"}
    found["FallbackSpec"] = "evaluation.fallback"
    found |= {"IntegrationSpec": "integrations", "TrackerRun": "integrations.<type>"}
    for owner in (method, schema):
        for name, field in owner["properties"].items():
            for reference in _iter_references(field):
                found.setdefault(reference, name)
    return found


def _iter_references(field: JSON) -> Iterator[str]:
    for each in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        if "$ref" in each:
            yield each["$ref"].rpartition("/")[2]


def _iter_table(title: str, section: JSON, definitions: JSON) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""
    if description := section.get("description"):
        yield " ".join(description.split())
        yield ""
    yield "| field | default | values | what |"
    yield "|---|---|---|---|"
    required = set(section.get("required", ()))
    for name, field in section["properties"].items():
        default = "needed" if name in required else f"`{_show_default(field)}`"
        what = " ".join(field.get("description", "").split()).replace("|", "\\|")
        values = _describe_values(field, definitions).replace("|", "\\|")
        yield f"| `{name}` | {default} | {values} | {what} |"


def _show_default(field: JSON) -> str:
    default = field.get("default", {} if field.get("type") == "object" else None)
    return "…" if isinstance(default, dict) and default else json.dumps(default, ensure_ascii=False)


def _describe_values(field: JSON, definitions: JSON) -> str:
    options = [_describe_value(each, definitions) for each in field.get("anyOf", [field])]
    return " or ".join(dict.fromkeys(option for option in options if option))


def _describe_value(field: JSON, definitions: JSON) -> str:
    for reference in _iter_references(field):
        target = definitions.get(reference, {})
        return _describe_enum(target) or "its own fields, below"
    if listed := _describe_enum(field):
        return listed
    bounds = ", ".join(text.format(field[name]) for name, text in BOUNDS.items() if name in field)
    match field.get("type"):
        case "array":
            items = field.get("items") or (field.get("prefixItems") or [{}])[0]
            inner = _describe_value(items, definitions)
            return f"list of {inner}" + (f"; {bounds}" if bounds else "")
        case "object":
            return "names and values"
        case "null":
            return "null"
        case None:
            return ""
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "boolean"}
    return names[field["type"]] + (f", {bounds}" if bounds else "")


def _describe_enum(field: JSON) -> str:
    listed = field.get("enum") or ([field["const"]] if "const" in field else [])
    return ", ".join(f"`{value}`" for value in listed)
