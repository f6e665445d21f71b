"""Findings of `qcrd doctor` from a running gateway's `/metrics` and `/ready`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from qcrd.cli.output.finding import Finding

TIMEOUT_SECONDS = 5.0

Samples = Mapping[str, Mapping[tuple[tuple[str, str], ...], float]]
"""By metric, then by labels."""


def check_gateway(url: str) -> Iterator[Finding]:
    """`url` of the gateway, with or without `/v1`."""
    address = url.rstrip("/").removesuffix("/v1")
    try:
        with httpx2.Client(trust_env=False, timeout=TIMEOUT_SECONDS) as client:
            response = client.get(f"{address}/metrics").raise_for_status()
            teachers = _read_teachers(client.get(f"{address}/ready"))
        samples = parse_metrics(response.text)
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        # ValueError: the response is not Prometheus text, so another server listens there.
        yield Finding("metrics", "advice", f"cannot read {address}/metrics: {error}")
        return
    yield from check_samples(samples)
    for name, found in teachers.items():
        if found == "ok":
            yield Finding(f"teacher {name}", "ok", "it answered when it was looked at last")
        else:
            yield Finding(f"teacher {name}", "advice", found, "it is looked at again by itself")


def _read_teachers(ready: httpx2.Response) -> Mapping[str, str]:
    """As a worker of the gateway found them; none of a gateway that does not tell."""
    try:
        told = ready.json()
    except ValueError:
        return {}
    teachers = told.get("teachers") if isinstance(told, dict) else None
    return teachers if isinstance(teachers, dict) else {}


def parse_metrics(text: str) -> Samples:
    """Prometheus text as a table."""
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            samples.setdefault(sample.name, {})[labels] = sample.value
    return samples


def check_samples(samples: Samples) -> Iterator[Finding]:
    if not _sum_metric(samples, "qcrd_redis_up"):
        yield Finding("redis", "advice", "not reachable from the gateway", "see `qcrd status`")
        return
    jobs = _group_by_label(samples, "qcrd_jobs", "status")
    job_counts = ", ".join(f"{count:.0f} {name}" for name, count in jobs.items() if count)
    yield Finding("jobs", "ok", job_counts or "none yet")
    queue_lengths = _group_by_label(samples, "qcrd_queue_length", "task")
    waiting = ", ".join(f"{count:.0f} for {task}" for task, count in queue_lengths.items())
    yield Finding("waiting jobs", "ok", waiting or "none")
    tokens = _sum_metric(samples, "qcrd_teacher_tokens_total")
    yield Finding("teacher tokens", "ok", f"{tokens:,.0f} paid by all jobs")
    yield _check_recoveries(samples)


def _check_recoveries(samples: Samples) -> Finding:
    """Lost leases and attempts are recovered from, so they are advice only."""
    lost = _sum_metric(samples, "qcrd_lease_losses_total")
    attempts = _sum_metric(samples, "qcrd_attempts_lost_total")
    refused = _sum_metric(samples, "qcrd_deliveries_refused_total")
    detail = (
        f"{lost:.0f} leases lost, {attempts:.0f} attempts lost, {refused:.0f} deliveries refused"
    )
    if lost or attempts:
        return Finding("recoveries", "advice", detail, "the jobs' events say why")
    return Finding("recoveries", "ok", detail)


def _sum_metric(samples: Samples, name: str) -> float:
    return sum(samples.get(name, {}).values())


def _group_by_label(samples: Samples, name: str, label: str) -> dict[str, float]:
    return {dict(labels).get(label, ""): value for labels, value in samples.get(name, {}).items()}
