"""The OpenAPI document: what FastAPI makes of the routes, and the bodies that they read by hand.

A job's body is read into `JobSpec` by the code that names a wrong field by its path, so FastAPI
does not know its shape; it is told here, from the same record.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from qcrd.records.spec import JobSpec, MethodName
from qcrd.records.study import StudySpec
from services.api.http import schemas as wire

REF = "#/components/schemas/{model}"
FILE_ID = "^file-[0-9a-f]{24}$"
JOB_ID = "^ftjob-[0-9a-f]{24}$"
IDS = {
    "file_id": FILE_ID,
    "job_id": JOB_ID,
    "study_id": "^study-[0-9a-f]{24}$",
    "set_id": "^set-[0-9a-f]{24}$",
    "item_id": "^[0-9a-f]{24}-[pn](0|[1-9][0-9]{0,3})$",
    "model_id": "^model-[0-9a-f]{24}$",
    "judge_id": JOB_ID,
}
"""What each id in a path looks like."""
BODIES = {
    "/v1/fine_tuning/jobs": "JobRequest",
    "/v1/fine_tuning/jobs/estimate": "JobRequest",
    "/v1/studies": "StudyRequest",
}


class Described(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = _completed(super().openapi())
        return self.openapi_schema


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)  # every error has the one envelope
    schemas.setdefault("Envelope", wire.Envelope.model_json_schema(ref_template=REF))
    job, shared = _job_request()
    study = StudySpec.model_json_schema(by_alias=True, ref_template=REF)
    shared |= study.pop("$defs")
    shared.pop("JobSpec")
    study["title"] = "StudyRequest"
    study["properties"]["job"] = {"$ref": REF.format(model="JobRequest")}
    study["properties"]["seeds"]["maxItems"] = 256
    document["components"]["schemas"] |= {**shared, "JobRequest": job, "StudyRequest": study}
    for path, name in BODIES.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]
        content["application/json"]["schema"] = {"$ref": REF.format(model=name)}
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, routes in document["paths"].items():
        for route in routes.values():
            if path.startswith("/v1/"):
                route["security"] = [{"key": []}]
            _with_forms_of_ids(route)
    return document


def _with_forms_of_ids(route: dict[str, Any]) -> None:
    for parameter in route.get("parameters", ()):
        if parameter["in"] == "path" and parameter["name"] in IDS:
            parameter["schema"]["pattern"] = IDS[parameter["name"]]


def _job_request() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a job's body, and the schemas that it refers to."""
    schema = JobSpec.model_json_schema(by_alias=True, ref_template=REF)
    shared = schema.pop("$defs")
    fields = schema["properties"]
    fields.pop("settings")
    fields["method"] = {
        "description": "What to train. The settings stand under the method's own name.",
        "anyOf": [_method(name.value) for name in MethodName],
    }
    fields["training_file"] |= {"pattern": FILE_ID}
    for name in ("validation_file", "test_file"):
        fields[name] = _nullable({"type": "string", "pattern": FILE_ID})
    fields["knowledge_of"] = _nullable({"type": "string", "pattern": JOB_ID})
    for name in fields.keys() - set(schema["required"]):
        fields[name] = _nullable(fields[name])
    return {**schema, "title": "JobRequest"}, shared


def _method(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "title": name,
        "required": ["type"],
        "additionalProperties": False,
        "properties": {
            "type": {"const": name},
            name: _nullable({"$ref": REF.format(model="MethodSpec")}),
        },
    }


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Null is the same as leaving the field out, as OpenAI's clients may send it."""
    if {"type": "null"} in schema.get("anyOf", ()):
        return schema
    return {"anyOf": [schema, {"type": "null"}]}
