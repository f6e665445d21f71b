"""What a running gateway's `/metrics` say of the whole system, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

from qcrd.cli.output.finding import Finding

TIMEOUT = 5.0

Samples = Mapping[str, Mapping[tuple[tuple[str, str], ...], float]]
"""By metric, then by labels."""


def gateway_findings(url: str) -> Iterator[Finding]:
    """`url` of the gateway, with or without `/v1`."""
    address = url.rstrip("/").removesuffix("/v1")
    try:
        with httpx.Client(trust_env=False, timeout=TIMEOUT) as client:
            answer = client.get(f"{address}/metrics").raise_for_status()
        samples = read(answer.text)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        # What is no metrics at all is a ValueError: another server is there.
        yield Finding("metrics", "advice", f"{address}/metrics tells nothing: {error}")
        return
    yield from findings(samples)


def read(text: str) -> Samples:
    """Prometheus text as a table."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def findings(samples: Samples) -> Iterator[Finding]:
    if not _total(samples, "qcrd_redis_up"):
        yield Finding("redis", "advice", "the gateway does not reach it", "see `qcrd status`")
        return
    jobs = _by(samples, "qcrd_jobs", "status")
    shown = ", ".join(f"{count:.0f} {name}" for name, count in jobs.items() if count)
    yield Finding("jobs", "ok", shown or "none yet")
    lines = _by(samples, "qcrd_queue_length", "task")
    waiting = ", ".join(f"{count:.0f} for {task}" for task, count in lines.items())
    yield Finding("waiting jobs", "ok", waiting or "none")
    tokens = _total(samples, "qcrd_teacher_tokens_total")
    yield Finding("teacher tokens", "ok", f"{tokens:,.0f} paid by all jobs")
    yield _trouble(samples)


def _trouble(samples: Samples) -> Finding:
    """Kills and stalls are survived, so they are advice; many of them cost time."""
    lost = _total(samples, "qcrd_lease_losses_total")
    attempts = _total(samples, "qcrd_attempts_lost_total")
    refused = _total(samples, "qcrd_deliveries_refused_total")
    detail = (
        f"{lost:.0f} leases lost, {attempts:.0f} attempts lost, {refused:.0f} deliveries refused"
    )
    if lost or attempts:
        return Finding("recoveries", "advice", detail, "the jobs' events say why")
    return Finding("recoveries", "ok", detail)


def _total(samples: Samples, name: str) -> float:
    return sum(samples.get(name, {}).values())


def _by(samples: Samples, name: str, label: str) -> dict[str, float]:
    return {dict(labels).get(label, ""): value for labels, value in samples.get(name, {}).items()}
