"""A training that is told to stop at any of its records and goes on loses nothing that it tells."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import pytest

from qcrd.method.distributed.ranks import SingleRank
from qcrd.method.judge.model import LocalJudge
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.trainer import Trainer
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.rationales import RationaleCounts, RationaleManifest
from qcrd.runtime import keys
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import NextStage, StageContext, WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.storage.store import MemoryStore
from services.trainer.checkpoints.store import CheckpointStore
from services.trainer.data.training_dataset import LabeledQuestions, TrainingDataset
from services.trainer.student_run import StudentRun, resume_trainer, run_trainer
from tests.integration.site import spec as job_spec
from tests.unit.method.training.test_trainer import judge, lessons, spec, student, validate

NEVER = 10**9
COUNTS = RationaleCounts(
    questions=0, outputs=0, parsed=0, unparseable=0, positives=0, negatives=0,
    majority_right=0, majority_wrong=0, ties=0,
)  # fmt: skip
DATASET = TrainingDataset(
    RationaleManifest(id="set-1", shards=(), counts=COUNTS, created_at=0.0),
    tuple(lessons()),
    (),
    LabeledQuestions((), (), ()),
    (),
)


@dataclass
class Site:
    """A worker in memory; the judge outlives its trainings, as the service does."""

    judge: LocalJudge = field(default_factory=judge)
    judge_metrics: dict[str, float] | None = None
    records: int = 0

    def __post_init__(self) -> None:
        self.jobs, self.events = MemoryJobStore(), MemoryEventLog()
        self.deps = WorkerDeps(self.jobs, self.events, MemoryStore(), MemoryJobQueue())
        self.id = keys.new_id("ftjob")
        self.jobs.create(
            Job(
                id=self.id,
                spec=job_spec(),
                status=JobStatus.QUEUED,
                stage=Stage.TRAINING,
                created_at=time.time(),
            )
        )

    def train(self, stop_at: int) -> bool:
        """Whether it came to its end, and was not told to stop at its `stop_at`-th record."""
        self.records, self.judge_metrics = 0, None

        def count() -> None:
            self.records += 1

        def work(stage: StageContext) -> NextStage:
            schedule = make_schedule("qcrd", spec(), n_examples=len(lessons()), seed=5)
            trainer = Trainer(student(), lessons(), schedule, validate, self.judge)
            store = CheckpointStore(
                stage.store, self.id, run_digest="run", interval_seconds=NEVER, ranks=SingleRank()
            )
            run = StudentRun(schedule, DATASET, student, self.judge, mark_progress=count)
            earlier = resume_trainer(stage, "qcrd", trainer, store)
            _, self.judge_metrics = run_trainer(stage, run, trainer, store, earlier)
            return NextStage(Stage.EVALUATING)

        deps = replace(self.deps, is_stopping=lambda: self.records >= stop_at)
        run_stage(deps, self.id, Stage.TRAINING, work)
        return self.judge_metrics is not None

    def told(self) -> list[str]:
        """What is told once: of each iteration, and of the judge in it."""
        said = (event.message for event in self.events.read(self.id, None, 1000))
        return [line for line in said if "iteration " in line and "negatives for" not in line]


@pytest.fixture(scope="module")
def calm() -> Site:
    site = Site()
    assert site.train(NEVER)
    return site


def test_a_stop_at_any_record_loses_no_event_and_no_metric(calm: Site) -> None:
    assert len(calm.told()) >= 7, "the pretrained judge, three iterations and the judge in each"
    for number in range(1, calm.records):
        site = Site()
        assert not site.train(number)
        assert site.train(NEVER)
        assert site.told() == calm.told(), f"stopped at record {number}"
        assert site.judge_metrics == pytest.approx(calm.judge_metrics), f"at record {number}"
