"""Anything at all as a job's spec or an upload: it can be worked on, or is refused by its place."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcrd.errors import QcrdError
from qcrd.method.answers import canonical, parse_output
from qcrd.records.job import Stage
from qcrd.records.rationales import Question
from qcrd.records.specs.task import AnswerKind, TaskSpec
from qcrd.runtime.jobs.stage_context import NextStage, StageContext, WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from services.api.assembling import stage as assemble
from services.api.assembling.backoff_policy import BackoffPolicy
from services.api.settings import TeacherConfig
from services.trainer.data import training_dataset
from tests.fakes.scripted_teacher import ScriptedTeacher
from tests.unit.api.gateway_client import Here

JOBS = "/v1/fine_tuning/jobs"
JSON = {"content-type": "application/json"}
QUICK = BackoffPolicy(
    poll_interval=0.02, initial_delay=0.02, max_delay=0.1, outage_timeout=1.0, overload_timeout=1.0
)
RELAXED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

SAID = (
    " One and one.\n<Answer>: 2",
    "\n<Answer>: yes",
    " so the answer is (b) blue",
    " It is (a).",
    "<Answer>: 1e999999999",
    "\ufffd\u202e<Answer>:",
    "",
    " three\n\nQuestion: what?",
)
"""By a teacher: readable for some of the tasks, for others not."""


@dataclass
class Bench:
    """A gateway, its worker's stage and the trainer's reading, in one process."""

    here: Here
    teacher: ScriptedTeacher
    files: dict[str, str] = field(default_factory=dict)

    def post(self, path: str, content: bytes) -> dict[str, Any] | None:
        """The answer's body if it is a success, else None: the envelope was looked at."""
        with pytest.MonkeyPatch.context() as patch:
            # For this only: it would keep the worker's client from the teacher as well.
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            return judged(self.here.client.post(path, content=content, headers=JSON))

    def work(self, job_id: str) -> None:
        """Assemble the job and read what came of it; only errors of our tree may end either."""
        foreign: list[Exception] = []

        def stage(context: StageContext) -> NextStage:
            teachers = {"default": TeacherConfig(url=self.teacher.url)}
            try:
                return assemble.assemble(context, MemoryGenerationBuffer(), teachers, QUICK)
            except Exception as error:
                if not isinstance(error, QcrdError):
                    foreign.append(error)
                raise

        here = self.here
        deps = WorkerDeps(here.jobs, here.events, here.store, here.queue)
        run_stage(deps, job_id, Stage.ASSEMBLING, stage)
        if foreign:
            raise foreign[0]
        job = here.jobs.get(job_id)
        if job.rationale_set is not None:
            with contextlib.suppress(QcrdError):
                training_dataset.load_dataset(here.store, job.rationale_set, job.spec)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    here = Here(tmp_path_factory.mktemp("fuzz") / "models")
    teacher = ScriptedTeacher(lambda prompt, seed: SAID[(len(prompt) + seed) % len(SAID)])
    made = Bench(here, teacher)
    for name, rows in FILES.items():
        made.files[name] = here.file(rows)
    yield made
    teacher.close()


def rows(*labels: Any, **more: Any) -> list[dict[str, Any]]:
    return [
        {"question": f"Q{number} {sorted(more)} {label}?", "label": label, **more}
        for number, label in enumerate(labels)
    ]


FILES = {
    "numbers": rows("1", "2", "3/2", "-4", "1,000"),
    "more": rows("10", "2*3", "(1+1)"),
    "labels": rows("yes", "no", "Yes.", "no!"),
    "choices": rows("a", "b", "(a)", "b", choices=["a", "b"]),
    "bare": [{"question": f"Bare {number}?"} for number in range(4)],
    "answered": rows("1", "2", "3", "4", teacher_outputs=list(SAID)),
    "strange": rows("\u202e", "\x00", "½", "٣", "🦀", "1e308", "(" * 150, '"“”"'),
}

# --- job specs -----------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "model": "tiny",
    "training_file": "numbers",
    "validation_file": None,
    "test_file": "more",
    "suffix": "s",
    "seed": 1,
    "metadata": {"a": "b"},
    "method": {
        "type": "qcrd",
        "qcrd": {
            "teacher": "default",
            "task": {
                "answer": "number",
                "labels": ["yes", "no"],
                "instruction": "Answer.",
                "examples": [{"question": "q", "explanation": "e", "answer": "1"}],
            },
            "label_mode": "gold",
            "rationales": {
                "n": 3,
                "temperature": 0.7,
                "top_p": 0.9,
                "max_new_tokens": 64,
                "stop": ["\n\n"],
                "positive_rule": "majority",
                "import": None,
                "imported_answer": "parsed",
                "max_unreadable_share": 1,
                "test_samples": 1,
            },
            "negatives": {"source": ["student_lag"], "lag": 2, "temperature": 1.5, "n": 1},
            "discriminator": {"hidden": 8, "loss": "paper", "pretrain_steps": 2},
            "loss": {"alpha": [0.5, 0.5, 0.5], "beta": 0.2, "delta": 3.0, "scheme": "min_max"},
            "student": {"lora": None, "decoder_layers": 2, "freeze": "embeddings"},
            "hyperparameters": {"iterations": 4, "validation_share": 0.3, "batch_size": 2},
            "baselines": ["finetune"],
        },
    },
}

names = st.sampled_from(sorted(FILES))
words = st.sampled_from(
    "qcrd dss finetune single_task gold llm label choice number text majority teacher_minority "
    "fixed sampling student_lag tiny default yes parsed infonce".split()
)
characters = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = (
    st.sampled_from([0, 1, -1, 2, 64, 65, 0.5, 1.0, 2**31, -(2**63), 2**64 - 1, 1e308, 5e-324])
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
)  # fmt: skip
scalars = st.none() | st.booleans() | numbers | characters | words | names
junk = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(characters | words, inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value within `value`, its own first."""
    yield at
    inner = value if isinstance(value, dict) else {}
    for name, below in inner.items():
        yield from places(below, (*at, name))
    for number, below in enumerate(value if isinstance(value, list) else ()):
        yield from places(below, (*at, number))


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A whole spec with one to three values replaced, left out or added."""
    spec: Any = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([at for at in places(spec) if at]))
        parent = spec
        for name in way:
            parent = parent[name]
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"])):
            case "replace":
                parent[last] = draw(junk)
            case "remove":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[draw(characters | words)] = draw(junk)
    return spec


@st.composite
def sensible(draw: st.DrawFn) -> dict[str, Any]:
    """Specs of right types, most of which are accepted: what the stages have to live with."""
    spec = copy.deepcopy(FULL)
    kind = draw(st.sampled_from(["qcrd", "dss", "finetune", "single_task", "dss+positives"]))
    body = spec["method"].pop("qcrd")
    answer = draw(st.sampled_from(["number", "label", "choice", "text"]))
    task = {"answer": answer, "instruction": draw(characters)}
    if answer == "label":
        task["labels"] = [*draw(st.lists(characters, max_size=2)), "yes", "no"]
    fitting = {"number": "numbers", "label": "labels", "choice": "choices", "text": "strange"}
    body |= {"task": task, "label_mode": draw(st.sampled_from(["gold", "llm"]))}
    body["rationales"] |= {
        "n": draw(st.integers(1, 4)),
        "temperature": draw(st.sampled_from([0, 0.7])),
        "stop": draw(st.lists(characters, max_size=2)),
        "import": draw(st.none() | names),
        "imported_answer": draw(st.sampled_from(["parsed", "label"])),
        "positive_rule": draw(st.sampled_from(["majority", "gold", "majority_and_gold"])),
        "test_samples": draw(st.integers(0, 2)),
    }
    body["hyperparameters"]["validation_share"] = draw(st.floats(0.01, 0.89))
    spec["method"] = {"type": kind, kind: body}
    spec |= {
        "training_file": draw(st.just(fitting[answer]) | names),
        "validation_file": draw(st.none() | names),
        "test_file": draw(st.none() | names),
        "metadata": draw(st.dictionaries(characters, characters, max_size=2)),
        "seed": draw(st.integers(0, 2**31 - 1)),
    }
    return spec


def named(value: Any, files: dict[str, str]) -> Any:
    """`value` with the ids of files in place of the names that they have here."""
    if isinstance(value, str):
        return files.get(value, value)
    if isinstance(value, list):
        return [named(inner, files) for inner in value]
    if isinstance(value, dict):
        return {name: named(inner, files) for name, inner in value.items()}
    return value


def judged(answer: Any) -> dict[str, Any] | None:
    """The answer's body if it is a success, else None: the envelope was looked at."""
    assert answer.status_code < 500, answer.text
    if answer.is_success:
        return dict(answer.json())
    assert 400 <= answer.status_code < 500
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    of_a_field = error["code"] in ("unknown_key", "invalid_value") and answer.status_code == 400
    if of_a_field and not error["message"].startswith(("the body holds", "the body: ")):
        assert error["param"] is not None, error  # an empty key is one too
        place = "line " if error["param"] == "file" else f"`{error['param']}`"
        assert place in error["message"]
    return None


@RELAXED
@given(st.one_of(mutated(), sensible()))
def test_any_spec_is_refused_with_its_field_or_can_be_worked_on(bench: Bench, spec: Any) -> None:
    job = bench.post(JOBS, json.dumps(named(spec, bench.files)).encode())
    if job is not None:
        bench.work(job["id"])


@RELAXED
@given(mutated(), junk, junk)
def test_any_study_is_refused_with_its_field_or_created(
    bench: Bench, job: Any, methods: Any, seeds: Any
) -> None:
    body = {"job": named(job, bench.files), "methods": methods, "seeds": seeds}
    bench.post("/v1/studies", json.dumps(body).encode())


@RELAXED
@given(st.binary(max_size=200) | junk.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_answered(bench: Bench, content: bytes) -> None:
    for path in (JOBS, f"{JOBS}/estimate", "/v1/studies"):
        bench.post(path, content)


# --- uploads -------------------------------------------------------------------------------------

lines_of_a_file = st.one_of(
    st.binary(max_size=60),
    junk.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"question": characters},
        optional={
            "label": characters | scalars,
            "choices": st.lists(characters, max_size=3) | scalars,
            "teacher_outputs": st.lists(characters, max_size=3) | scalars,
            "id": junk,
        },
    ).map(lambda row: json.dumps(row).encode()),
)


@RELAXED
@given(
    st.lists(lines_of_a_file, max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\r", b""]),
    st.integers(1, 50),
)
def test_any_file_in_any_pieces_is_taken_or_refused_by_its_line(
    bench: Bench, rows: list[bytes], end: bytes, size: int
) -> None:
    data = end.join(rows)
    head = b'--b\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n'
    body = (
        head % (b"file", b'; filename="f"') + data
        + b"\r\n" + head % (b"purpose", b"") + b"fine-tune\r\n--b--\r\n"
    )  # fmt: skip
    answer = bench.here.client.post(
        "/v1/files",
        content=(body[i : i + size] for i in range(0, len(body), size)),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    blobs = set(bench.here.store.list("uploads/"))
    if stored := judged(answer):
        content = bench.here.client.get(f"/v1/files/{stored['id']}/content").content
        assert content == data
        bench.here.client.delete(f"/v1/files/{stored['id']}")
        assert len(bench.here.store.list("uploads/")) == len(blobs) - 1
    elif answer.json()["error"]["code"] not in ("empty_file", "broken_form"):
        assert re.match(r"(line|record) \d+: ", answer.json()["error"]["message"])


@RELAXED
@given(st.binary(max_size=300), st.integers(1, 40))
def test_any_bytes_as_a_form_are_answered(bench: Bench, body: bytes, size: int) -> None:
    before = bench.here.store.list("")
    for content in (body, b"--b\r\n" + body, b"--b\r\n\r\n" + body + b"\r\n--b--"):
        answer = bench.here.client.post(
            "/v1/files",
            content=(content[i : i + size] for i in range(0, len(content), size)),
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        assert judged(answer) is None
    assert bench.here.store.list("") == before


# --- answers -------------------------------------------------------------------------------------


@given(st.text(max_size=200) | st.sampled_from(SAID), st.sampled_from(list(AnswerKind)))
def test_any_text_is_an_answer_or_none(text: str, kind: AnswerKind) -> None:
    task = TaskSpec(answer=kind, labels=("yes", "no"))
    asked = Question(id="0" * 24, text="?", choices=("a", "b"))
    canonical(text, task, asked)
    parse_output(text, task, asked)


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "\n",
        "\t ",
        '"',
        "“",
        "(",
        "( ",
        "Q ",
        "\n Q",
        "the ",
        "Answer ",
        "<",
        ". ",
        "1e",
        "9",
        "<Answer>: 5\n",
        "\\boxed{5} ",
        '{"a":',
        "the answer is not 5. ",
        "</think>",
    ],
)
@pytest.mark.parametrize("kind", list(AnswerKind))
def test_a_long_text_is_read_in_time(text: str, kind: AnswerKind) -> None:
    """A line of an upload may be 2 MiB; where reading took the square of that, it took days."""
    task = TaskSpec(answer=kind, labels=("yes", "no"))
    asked = Question(id="0" * 24, text="?", choices=("a", "b"))
    for long in (text * 100_000, "x" + text * 100_000 + "x", "<Answer>: a" + text * 100_000 + "b"):
        canonical(long, task, asked)
        parse_output(long, task, asked)


def test_the_spec_that_is_mutated_is_a_good_one(bench: Bench) -> None:
    job = bench.post(JOBS, json.dumps(named(FULL, bench.files)).encode())
    assert job is not None
    bench.work(job["id"])
    assert bench.here.jobs.get(job["id"]).rationale_set
