"""One job from its creation to what must be true of it at its end."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx2

from qcrd.records.job import Event, Job, JobStatus, Stage
from qcrd.records.rationales import Prediction
from tests.survival.stack.follower import Follower
from tests.survival.stack.system import CONCURRENCY, GATEWAYS, System, body, patiently, upload

END_SECONDS = 300.0
"""A job takes ten seconds undisturbed and a recovery ten more; a busy machine, ten times that."""
CALM_REQUEST = "req-of-the-undisturbed-run"
"""The id of the request that creates it."""
SLACK = 1.0
"""Seconds by which a kill and what it interrupts may be told apart."""

_rooms = count(32)


@dataclass(frozen=True)
class Data:
    training: str
    test: str

    @classmethod
    def uploaded(cls, system: System) -> Data:
        return cls(upload(system, "train", range(6)), upload(system, "test", range(6, 8)))


@dataclass
class Run:
    """A job that somebody follows. `disturbed` are the moments of what a test did to it."""

    system: System
    id: str
    room: int
    follower: Follower
    created: float
    disturbed: list[float] = field(default_factory=list)
    woken: list[float] = field(default_factory=list)
    """When what was held still went on: requests that were leaving then leave now."""

    def age(self) -> float:
        return time.time() - self.created

    def ended(self, seconds: float = END_SECONDS) -> Job:
        """Wait for the last event; the job as it is then."""
        self.follower.join(seconds)
        return self.system.job(self.id)


@dataclass(frozen=True)
class Calm:
    """What an undisturbed run was like: `begins` has the age at which each stage began."""

    id: str
    predictions: list[Prediction]
    told: list[tuple[str, int]]
    begins: dict[Stage, float]
    seconds: float


def begin(
    system: System, data: Data, rng: random.Random, gateways: int = 1, request_id: str = ""
) -> Run:
    """A job that pays for all of its teacher's answers itself. `request_id`: of its creation."""
    room, given = asked_for(data)
    created, gateway = time.time(), system.url(GATEWAYS[gateways - 1])
    headers = {"x-request-id": request_id} if request_id else {}
    url = f"{gateway}/v1/fine_tuning/jobs"
    answer = httpx2.post(url, json=given, headers=headers, timeout=30).raise_for_status()
    assert not request_id or answer.headers["x-request-id"] == request_id
    job_id = answer.json()["id"]
    return Run(system, job_id, room, followed(system, job_id, rng, gateways), created)


def asked_for(data: Data) -> tuple[int, dict[str, Any]]:
    """A job's `room`, which no other has, and the body that creates it."""
    room = next(_rooms)
    return room, body(data.training, data.test, room)


def followed(system: System, job_id: str, rng: random.Random, gateways: int = 1) -> Follower:
    return Follower([system.url(name) for name in GATEWAYS[:gateways]], job_id, rng)


def watched(run: Run) -> Calm:
    """Let `run` end in peace, and note when its stages began."""
    begins: dict[Stage, float] = {}
    while not run.follower.over and run.age() < END_SECONDS:
        if (stage := run.system.job(run.id).stage) is not None:
            begins.setdefault(stage, run.age())
        time.sleep(0.005)
    next_age = seconds = run.age()
    for stage in reversed(Stage):  # one of milliseconds may not have been seen: it was before this
        next_age = begins.setdefault(stage, next_age)
    check(run, None)
    events = run.system.all_events(run.id)
    return Calm(run.id, run.system.predictions(run.id), told(events), begins, seconds)


def begun(run: Run, stage: Stage) -> bool:
    """Whether a worker has the job for this stage."""
    return run.system.holder(run.id) is not None and run.system.job(run.id).stage is stage


def check(run: Run, calm: Calm | None) -> None:
    """Everything that must hold however the run was disturbed."""
    job = run.ended()
    problems = [
        *_outcome(job),
        *_events(run),
        *_payments(run),
        *([] if calm is None else _sameness(run, calm)),
    ]
    if problems:
        shown = "\n".join(f"  {e.id} {e.message}" for e in run.system.all_events(run.id))
        raise AssertionError(
            f"{job.id}: " + "; ".join(problems) + f"\n{shown}\n{run.system.tails()}"
        )


def _outcome(job: Job) -> list[str]:
    if job.status is JobStatus.SUCCEEDED:
        return []
    return [f"it is {job.status} in {job.stage}, attempt {job.attempt}: {job.failure}"]


def _sameness(run: Run, calm: Calm) -> list[str]:
    events = run.system.all_events(run.id)
    found = []
    if run.system.predictions(run.id) != calm.predictions:
        found.append("its predictions are not those of the undisturbed run")
    if told(events) != calm.told:
        found.append(f"it told of {told(events)}, not of {calm.told}")
    return found


def told(events: list[Event]) -> list[tuple[str, int]]:
    """What training tells once whenever it is done: rounds, judges and results, in order."""
    kinds = ("validation", "histograms", "accuracy")
    return [
        (kind, event.data.get("iteration", 0))
        for event in events
        for kind in kinds
        if kind in event.data
    ]


def _events(run: Run) -> list[str]:
    """What the follower saw against what the gateway has, and against what a job may say."""
    seen, kept = run.follower.seen, _listed(run)
    found = []
    if [at for at, _ in seen] != [event["id"] for event in kept]:
        lost = [event["message"] for event in kept if event["id"] not in dict(seen)]
        found.append(
            f"of {len(kept)} events the follower saw {len(seen)} over "
            f"{run.follower.connections} connections; lost: {lost}"
        )
    elif [event for _, event in seen] != kept:
        found.append("an event reads differently in the stream and in the list")
    ends = [event["message"] for event in kept if event["data"].get("status") in ("succeeded",)]
    if len(ends) != 1 or kept[-1]["message"] != ends[0]:
        found.append(f"the end is told {len(ends)} times")
    begun = sum(event["message"] == "job created" for event in kept)
    if begun != 1:
        found.append(f"the beginning is told {begun} times")
    steps = [event["data"]["step"] for event in kept if "loss" in event["data"]]
    if steps != sorted(set(steps)):
        found.append(f"a step was told twice: {steps}")
    return found


def _listed(run: Run) -> list[dict[str, Any]]:
    url = f"{run.system.url()}/v1/fine_tuning/jobs/{run.id}/events"
    asked = {"order": "asc", "limit": 1000}
    answer = patiently(lambda: httpx2.get(url, params=asked, timeout=30).raise_for_status())
    page: list[dict[str, Any]] = answer.json()["data"]
    return page


def _payments(run: Run) -> list[str]:
    """A generation that finished twice had not been answered when something was killed."""
    calls: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(
        lambda: {"started": [], "finished": []}
    )
    for line in run.system.teacher_record.read_text().splitlines():
        call = json.loads(line)
        if call["room"] == run.room:
            calls[call["prompt"], call["seed"]][call["what"]].append(call["at"])
    repeated = [call for call in calls.values() if len(call["finished"]) > 1]
    allowed = CONCURRENCY * len(run.disturbed)
    found = []
    if sum(len(call["finished"]) - 1 for call in repeated) > allowed:
        found.append(f"{len(repeated)} calls were paid twice, {allowed} were in flight at most")
    for call in repeated:
        start, end = call["started"][0], call["finished"][0]
        was_in_flight = any(start - SLACK < at < end + SLACK for at in run.disturbed)
        left_late = any(abs(at - woken) < SLACK for at in call["started"] for woken in run.woken)
        if not was_in_flight and not left_late:
            moments = [f"{at - run.created:.2f}" for at in run.disturbed]
            found.append(
                f"a call from {start - run.created:.2f} to {end - run.created:.2f} s was paid "
                f"again, and was not in flight at {moments}"
            )
    return found
