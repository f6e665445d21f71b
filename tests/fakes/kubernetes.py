"""A Kubernetes API server in memory, as far as the trainer speaks to one: TrainJobs, their pods and
Kueue's workloads.

It answers what was measured on a real one (1.36, with Kubeflow Trainer 2.3's CRDs): 409 on a taken
name, 422 on immutable fields and bad names, suspension shown only by `.spec.suspend`, fields that
it does not know refused when strict and pruned when not, a sentence that names the missing
permission.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests import serving

GROUP = "trainer.kubeflow.org"
TRAINJOBS = f"/apis/{GROUP}/v1alpha1/namespaces/{{namespace}}/trainjobs"
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2/namespaces/{namespace}/workloads"
USER = "system:serviceaccount:qcrd:trainer"
RESERVED = "PET_"
SPEC_FIELDS = {
    "suspend",
    "runtimeRef",
    "activeDeadlineSeconds",
    "trainer",
    "runtimePatches",
    "managedBy",
    "initializer",
    "labels",
    "annotations",
}
TRAINER_FIELDS = {
    "numNodes",
    "numProcPerNode",
    "command",
    "args",
    "env",
    "resourcesPerNode",
    "image",
}
Json = dict[str, Any]


class Refused(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
        self.body = {**body, "reason": reason, "message": message, "code": status}


def _taken(name: str) -> Refused:
    return Refused(409, "AlreadyExists", f'trainjobs.{GROUP} "{name}" already exists')


def _unknown(name: str) -> Refused:
    return Refused(404, "NotFound", f'trainjobs.{GROUP} "{name}" not found')


def _invalid(name: str, why: str) -> Refused:
    return Refused(422, "Invalid", f'TrainJob.{GROUP} "{name}" is invalid: {why}')


@dataclass
class FakeCluster:
    """Its objects, and what a test makes of them in the controllers' place."""

    train_jobs: dict[str, Json] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    workloads: dict[str, Json] = field(default_factory=dict)
    allowed: set[tuple[str, str]] | None = None
    """Pairs of verb and resource that the worker's service account has; None: all."""
    has_trainer: bool = True
    on_start: Callable[[Json], None] = lambda train_job: None
    """What a node would do with a TrainJob that may run."""
    on_stop: Callable[[Json], None] = lambda train_job: None
    """What its pods would do at SIGTERM."""
    requests: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def condition(self, name: str, kind: str, reason: str, message: str) -> None:
        """Set a condition of a TrainJob, as its controller does."""
        with self.lock:
            conditions = self.train_jobs[name].setdefault("status", {}).setdefault("conditions", [])
            told = {"status": "True", "lastTransitionTime": "2026-11-27T00:00:00Z"}
            conditions.append({"type": kind, "reason": reason, "message": message, **told})

    def put_pod(self, train_job: str, name: str, status: Json) -> None:
        labels = {"jobset.sigs.k8s.io/jobset-name": train_job}
        with self.lock:
            self.pods[name] = {"metadata": {"name": name, "labels": labels}, "status": status}

    def refuse_quota(self, name: str, message: str) -> None:
        """As Kueue does while it cannot admit a TrainJob."""
        refused = {"type": "QuotaReserved", "status": "False", "reason": "Pending"}
        with self.lock:
            labels = {"kueue.x-k8s.io/job-uid": self.train_jobs[name]["metadata"]["uid"]}
            about = {"name": f"trainjob-{name}", "labels": labels}
            status = {"conditions": [{**refused, "message": message}]}
            self.workloads[name] = {"metadata": about, "status": status}

    def finish_deletion(self, name: str) -> None:
        """The last pod is gone, and with it the finalizer."""
        with self.lock:
            del self.train_jobs[name]

    def unsuspend(self, name: str) -> None:
        """As Kueue admits it."""
        with self.lock:
            self.train_jobs[name]["spec"]["suspend"] = False
            self.on_start(self.train_jobs[name])

    # --- requests

    def create(self, namespace: str, body: Json, *, strict: bool) -> Json:
        name = body["metadata"]["name"]
        if not NAME.fullmatch(name):
            raise _invalid(
                name, "metadata.name: a lowercase RFC 1035 label of at most 63 is needed"
            )
        made = _read_fields(body, strict=strict)
        for one in made["spec"].get("trainer", {}).get("env", ()):
            if one["name"].startswith(RESERVED):
                raise _invalid(name, f"spec.trainer.env: {one['name']} is reserved")
        if name in self.train_jobs:
            raise _taken(name)
        made["metadata"] |= {"namespace": namespace, "uid": f"uid-{len(self.requests)}"}
        self.train_jobs[name] = made
        if not made["spec"].get("suspend"):
            self.on_start(made)
        return made

    def patch(self, name: str, body: Json) -> Json:
        train_job = self.get(name)
        changed = _merge(train_job, body)
        for immutable in ("trainer", "runtimeRef", "runtimePatches"):
            if changed["spec"].get(immutable) != train_job["spec"].get(immutable):
                raise _invalid(name, f"spec.{immutable}: Invalid value: field is immutable")
        was, is_ = train_job["spec"].get("suspend"), changed["spec"].get("suspend")
        self.train_jobs[name] = changed
        if is_ and not was:
            self.on_stop(changed)
        elif was and not is_:
            self.on_start(changed)
        return changed

    def delete(self, name: str, propagation: str) -> Json:
        train_job = self.get(name)
        if propagation != "Foreground":
            del self.train_jobs[name]
            return train_job
        if "deletionTimestamp" not in train_job["metadata"]:
            gone = {
                "deletionTimestamp": "2026-11-27T00:00:00Z",
                "finalizers": ["foregroundDeletion"],
            }
            train_job["metadata"] |= gone
            self.on_stop(train_job)
        return train_job

    def get(self, name: str) -> Json:
        if name not in self.train_jobs:
            raise _unknown(name)
        return self.train_jobs[name]

    def check(self, verb: str, resource: str, group: str, namespace: str) -> None:
        self.requests.append(f"{verb} {resource}")
        if not self.has_trainer and resource == "trainjobs":
            message = "the server could not find the requested resource"
            raise Refused(404, "NotFound", message)
        if self.allowed is not None and (verb, resource) not in self.allowed:
            full = f"{resource}.{group}" if group else resource
            raise Refused(
                403,
                "Forbidden",
                f'{full} is forbidden: User "{USER}" cannot {verb} resource "{resource}" in API '
                f'group "{group}" in the namespace "{namespace}"',
            )


def _read_fields(body: Json, *, strict: bool) -> Json:
    """The object without what the CRD does not have; strictly, that is refused."""
    made = copy.deepcopy(body)
    unknown = [f"spec.{name}" for name in made["spec"].keys() - SPEC_FIELDS]
    trainer = made["spec"].get("trainer", {})
    unknown += [f"spec.trainer.{name}" for name in trainer.keys() - TRAINER_FIELDS]
    if unknown and strict:
        listed = ", ".join(f'unknown field "{name}"' for name in sorted(unknown))
        raise Refused(400, "BadRequest", f"strict decoding error: {listed}")
    made["spec"] = {k: v for k, v in made["spec"].items() if k in SPEC_FIELDS}
    if trainer:
        made["spec"]["trainer"] = {k: v for k, v in trainer.items() if k in TRAINER_FIELDS}
    return made


def _merge(target: Json, patch: Json) -> Json:
    """RFC 7396."""
    merged = dict(target)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = _merge(merged.get(name) or {}, value)
        else:
            merged[name] = value
    return merged


def _selects(selector: str | None, labels: Json) -> bool:
    """By equality, `key=value`, or by a key that is there, `key`."""
    parts = (part.partition("=") for part in (selector or "").split(",") if part)
    return all(labels.get(key) == value if sign else key in labels for key, sign, value in parts)


def build_app(cluster: FakeCluster) -> Starlette:
    """Starlette runs these in threads, as they are no coroutines; the lock is the etcd."""

    def answer(verb: str, resource: str, group: str, serve: Callable[[Request, Json], Json]) -> Any:
        def sync(request: Request, body: Json) -> JSONResponse:
            with cluster.lock:
                try:
                    cluster.check(verb, resource, group, request.path_params["namespace"])
                    status = 201 if verb == "create" else 200
                    return JSONResponse(serve(request, body), status)
                except Refused as refused:
                    return JSONResponse(refused.body, refused.status)

        async def endpoint(request: Request) -> JSONResponse:
            body = await request.json() if await request.body() else {}
            return sync(request, body)

        return endpoint

    def named(request: Request) -> str:
        return str(request.path_params["name"])

    def listed(found: dict[str, Json], request: Request) -> Json:
        selector = request.query_params.get("labelSelector")
        chosen = [x for x in found.values() if _selects(selector, x["metadata"].get("labels", {}))]
        return {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": chosen}

    def create(request: Request, body: Json) -> Json:
        strict = request.query_params.get("fieldValidation") == "Strict"
        return cluster.create(request.path_params["namespace"], body, strict=strict)

    def patch(request: Request, body: Json) -> Json:
        if request.headers["content-type"] != "application/merge-patch+json":
            raise Refused(
                415, "UnsupportedMediaType", "the body of the request was in an unknown format"
            )
        return cluster.patch(named(request), body)

    def delete(request: Request, body: Json) -> Json:
        asked = request.query_params.get("propagationPolicy") or body.get("propagationPolicy")
        return cluster.delete(named(request), asked or "Background")

    def route(path: str, method: str, endpoint: Any) -> Route:
        return Route(path, endpoint, methods=[method])

    one = f"{TRAINJOBS}/{{name}}"
    pods = answer("list", "pods", "", lambda request, _: listed(cluster.pods, request))
    jobs = answer(
        "list", "trainjobs", GROUP, lambda request, _: listed(cluster.train_jobs, request)
    )
    workloads = answer(
        "list",
        "workloads",
        "kueue.x-k8s.io",
        lambda request, _: listed(cluster.workloads, request),
    )
    get = answer("get", "trainjobs", GROUP, lambda request, _: cluster.get(named(request)))
    return Starlette(
        routes=[
            route(TRAINJOBS, "POST", answer("create", "trainjobs", GROUP, create)),
            route(TRAINJOBS, "GET", jobs),
            route(one, "GET", get),
            route(one, "PATCH", answer("patch", "trainjobs", GROUP, patch)),
            route(one, "DELETE", answer("delete", "trainjobs", GROUP, delete)),
            route("/api/v1/namespaces/{namespace}/pods", "GET", pods),
            route(WORKLOADS, "GET", workloads),
        ]
    )


@contextmanager
def running(cluster: FakeCluster) -> Iterator[str]:
    """Its URL."""
    with serving.app(build_app(cluster)) as url:
        yield url
