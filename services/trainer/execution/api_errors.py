"""Errors of the Kubernetes API in our tree, with what an operator has to do.

All are `Transient`: a cluster that refuses is its operator's to mend, and jobs wait meanwhile.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from qcrd.errors import Transient

REFUSED, AWAY = "cluster_refuses", "cluster_unavailable"
RBAC_REFUSAL = re.compile(
    r'User "(?P<user>[^"]+)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]+)" '
    r'in API group "(?P<group>[^"]*)" in the namespace "(?P<namespace>[^"]+)"'
)
"""The API server's sentence about a missing permission; an admission webhook answers 403 too."""


@contextmanager
def translate_api_errors(doing: str) -> Iterator[None]:
    """`doing` says what was asked for: "create TrainJob x"."""
    try:
        yield
    except ApiException as error:
        raise _describe_refusal(error, doing) from error
    except HTTPError as error:
        raise Transient(
            f"cannot {doing}: the Kubernetes API server does not answer: {error}", code=AWAY
        ) from error


def read_message(error: ApiException) -> str:
    """The message in the Status that the API server answers with."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def _describe_refusal(error: ApiException, doing: str) -> Transient:
    told = read_message(error)
    if error.status == 429 or error.status >= 500:
        return Transient(f"cannot {doing}: Kubernetes answers {error.status}: {told}", code=AWAY)
    return Transient(f"cannot {doing}: {_advise(error.status, told)}", code=REFUSED)


def _advise(status: int, told: str) -> str:
    if status == 403 and (refusal := RBAC_REFUSAL.search(told)):
        resource = ".".join(filter(None, (refusal["resource"], refusal["group"])))
        return (
            f"{refusal['user']} lacks the verb `{refusal['verb']}` on {resource} in namespace "
            f"{refusal['namespace']}: bind a Role that has it, such as that of "
            "k8s/components/kubeflow"
        )
    if status == 401:
        return f"Kubernetes does not take the token of the worker's service account: {told}"
    if status == 404 and "could not find the requested resource" in told:
        return "the cluster knows no TrainJob: install Kubeflow Trainer 2.3"
    return f"Kubernetes refuses it ({status}): {told}"
