"""The OpenAPI document: FastAPI's, completed with the request bodies that routes parse themselves.

A job's body is parsed into `JobSpec` by code that names a wrong field by its path, so FastAPI does
not know its schema; it is added here, from the same record.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from qcrd.records import rest
from qcrd.records.specs.spec import JobSpec, MethodName
from qcrd.records.specs.study_spec import StudySpec

SCHEMA_REF = "#/components/schemas/{model}"
FILE_ID_PATTERN = "^file-[0-9a-f]{24}$"
JOB_ID_PATTERN = "^ftjob-[0-9a-f]{24}$"
ID_PATTERNS = {
    "file_id": FILE_ID_PATTERN,
    "job_id": JOB_ID_PATTERN,
    "study_id": "^study-[0-9a-f]{24}$",
    "set_id": "^set-[0-9a-f]{24}$",
    "item_id": "^[0-9a-f]{24}-[pn](0|[1-9][0-9]{0,3})$",
    "model_id": "^model-[0-9a-f]{24}$",
    "judge_id": JOB_ID_PATTERN,
}
"""The pattern of each id in a path."""
TAGS = [
    {"name": "files", "description": "Questions to train and test on"},
    {"name": "fine-tuning jobs", "description": "Distillation jobs, their events and checkpoints"},
    {"name": "studies", "description": "Methods and seeds compared in one table"},
    {"name": "models", "description": "Published students"},
    {"name": "completions", "description": "Answers of published students"},
    {"name": "rationale sets", "description": "Teacher outputs, votes, judge scores and edits"},
    {"name": "discriminators", "description": "Quality judges, one per job"},
    {"name": "health", "description": "Liveness and readiness"},
]
REQUEST_SCHEMAS = {
    "/v1/fine_tuning/jobs": "JobRequest",
    "/v1/fine_tuning/jobs/estimate": "JobRequest",
    "/v1/studies": "StudyRequest",
}


class DocumentedApp(FastAPI):
    """FastAPI whose operation ids are the names of the route functions, with our request "
    "schemas."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            generate_unique_id_function=lambda route: route.name, openapi_tags=TAGS, **options
        )

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = _complete_document(super().openapi())
        return self.openapi_schema


def _complete_document(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)  # every error has the one envelope
    schemas.setdefault(
        "ErrorResponse", rest.ErrorResponse.model_json_schema(ref_template=SCHEMA_REF)
    )
    job_schema, definitions = _build_job_request_schema()
    study_schema = StudySpec.model_json_schema(by_alias=True, ref_template=SCHEMA_REF)
    definitions |= study_schema.pop("$defs")
    definitions.pop("JobSpec")
    study_schema["title"] = "StudyRequest"
    study_schema["properties"]["job"] = {"$ref": SCHEMA_REF.format(model="JobRequest")}
    study_schema["properties"]["seeds"]["maxItems"] = 256
    document["components"]["schemas"] |= {
        **definitions,
        "JobRequest": job_schema,
        "StudyRequest": study_schema,
    }
    for path, name in REQUEST_SCHEMAS.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]
        content["application/json"]["schema"] = {"$ref": SCHEMA_REF.format(model=name)}
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, routes in document["paths"].items():
        for route in routes.values():
            if path.startswith("/v1/"):
                route["security"] = [{"key": []}]
            _add_id_patterns(route)
            route["responses"].pop("422", None)  # FastAPI's; ours is the 400
    return document


def _add_id_patterns(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and parameter["name"] in ID_PATTERNS:
            parameter["schema"]["pattern"] = ID_PATTERNS[parameter["name"]]


def _build_job_request_schema() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a job's body, and the schemas that it refers to."""
    schema = JobSpec.model_json_schema(by_alias=True, ref_template=SCHEMA_REF)
    definitions = schema.pop("$defs")
    fields = schema["properties"]
    fields.pop("settings")
    fields["method"] = {
        "description": "What to train. The settings stand under the method's own name.",
        "anyOf": [_build_method_schema(name.value) for name in MethodName],
    }
    fields["training_file"] |= {"pattern": FILE_ID_PATTERN}
    for name in ("validation_file", "test_file"):
        fields[name] = _make_nullable({"type": "string", "pattern": FILE_ID_PATTERN})
    for name in ("knowledge_of", "after"):
        fields[name] = _make_nullable({"type": "string", "pattern": JOB_ID_PATTERN})
    for name in fields.keys() - set(schema["required"]):
        fields[name] = _make_nullable(fields[name])
    return {**schema, "title": "JobRequest"}, definitions


def _build_method_schema(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "title": name,
        "required": ["type"],
        "additionalProperties": False,
        "properties": {
            "type": {"const": name},
            name: _make_nullable({"$ref": SCHEMA_REF.format(model="MethodSpec")}),
        },
    }


def _make_nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Null is the same as leaving the field out, as OpenAI's clients may send it."""
    if {"type": "null"} in schema.get("anyOf", ()):
        return schema
    return {"anyOf": [schema, {"type": "null"}]}
