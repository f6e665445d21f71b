"""Published students through the real server of students over S3 and a real gateway, asked by the
stock `openai` client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import httpx2
import openai
import psutil
import pytest

from qcrd.cli.chat import LocalStudent
from qcrd.method.judge.training_pairs import TrainingPair
from qcrd.method.student.base import Student
from qcrd.records.reports.answering import AnsweringReport, JudgedAnswers
from qcrd.records.specs.spec import MethodName
from qcrd.records.specs.training_spec import JudgeSpec, StudentSpec
from qcrd.records.students.confidence import Confidence, compute_log_odds
from qcrd.records.students.fallback import Fallback
from qcrd.runtime import keys
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.settings import ModelSettings, StoreSettings
from qcrd.runtime.storage.base_models import download_published_model
from qcrd.runtime.storage.s3 import S3Store
from services.api.app import create_app
from services.api.dependencies import GatewaySettings
from services.api.settings import ApiSettings, FileSettings, StudentSettings, TeacherSettings
from services.discriminator.main import build_app
from services.discriminator.settings import DiscriminatorSettings
from services.trainer.judge_client import RemoteJudge
from services.trainer.results.answering import StudentAnswers
from tests import serving, tiny
from tests.conftest import free_ports
from tests.students import REASONS, STUDENT, published, question, taught

IDLE_BYTES = 100 * 2**20
"""What a server that has loaded nothing may take: 61 MB measured; torch alone is over 200 MB."""


@dataclass
class Site:
    settings: StoreSettings
    store: S3Store
    client: openai.OpenAI
    process: subprocess.Popen[bytes]
    direct: str
    judge_port: int

    def ask(self, model: str, thing: str = "trout", **more: Any) -> Any:
        extra = {name: more.pop(name) for name in ("explain", "vote", "best_of") if name in more}
        return self.client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question(thing)}],
            extra_body=extra,
            **more,
        )

    def loaded(self) -> list[str]:
        return [model["id"] for model in httpx2.get(f"{self.direct}/v1/models").json()["data"]]


def started(store: StoreSettings, port: int, **more: str) -> subprocess.Popen[bytes]:
    """The server process, once it is ready."""
    environment = {
        **os.environ,
        "QCRD_S3_ENDPOINT": store.endpoint,
        "QCRD_S3_ACCESS_KEY": store.access_key,
        "QCRD_S3_SECRET_KEY": store.secret_key.get_secret_value(),
        "QCRD_S3_BUCKET": store.bucket,
        "QCRD_STUDENTS_PORT": str(port),
        **more,
    }
    process = subprocess.Popen([sys.executable, "-m", "services.teacher.students"], env=environment)
    for _ in range(1200):
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/ready").is_success:
                return process
        except httpx2.TransportError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
    raise AssertionError("the server did not become ready")


@pytest.fixture(scope="module")
def site(s3_settings: StoreSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = s3_settings.model_copy(update={"bucket": f"test-{uuid4().hex[:12]}"})
    store = S3Store(settings)
    store.put("ready", b"")
    port, judge_port = free_ports(2)
    judge_url = f"http://127.0.0.1:{judge_port}"
    process = started(settings, port, QCRD_STUDENTS_LOADED="2", QCRD_DISCRIMINATOR_URL=judge_url)
    app = create_app(
        store,
        MemoryJobStore(),
        MemoryEventLog(),
        MemoryJobQueue(),
        GatewaySettings(
            ApiSettings(),
            TeacherSettings(),
            FileSettings(),
            ModelSettings(models_dir=tmp_path_factory.mktemp("models")),
            students=StudentSettings(url=f"http://127.0.0.1:{port}"),
        ),
    )
    try:
        with serving.app(app) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
            yield Site(settings, store, client, process, f"http://127.0.0.1:{port}", judge_port)
    finally:
        process.kill()
        process.wait()


def test_an_idle_server_is_small(site: Site) -> None:
    """Runs first: nothing has been asked, so nothing heavy has been imported."""
    assert site.loaded() == []
    assert psutil.Process(site.process.pid).memory_info().rss < IDLE_BYTES


@pytest.fixture(scope="module")
def two_tasks(site: Site) -> str:
    return published(site.store)


def test_the_label_is_the_content(site: Site, two_tasks: str) -> None:
    for thing, (label, _) in REASONS.items():
        made = site.ask(two_tasks, thing)
        assert made.model == two_tasks
        message = made.choices[0].message
        assert message.content == label
        assert "reasoning_content" not in message.model_extra
        assert made.choices[0].finish_reason == "stop"
        # `predict: ` and the question are 10 tokens and the end token; the label one and its own.
        assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (11, 2)


def test_the_rationale_is_reasoning_content_when_asked_for(site: Site, two_tasks: str) -> None:
    made = site.ask(two_tasks, "apple", explain=True)
    assert made.choices[0].message.content == "fruit"
    assert made.choices[0].message.model_extra["reasoning_content"] == "it grows on trees"
    assert made.usage.prompt_tokens == 22
    assert made.usage.completion_tokens == 2 + 5


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("method", [MethodName.DSS, MethodName.SINGLE_TASK])
def test_a_stream_adds_up_to_the_whole_answer(
    site: Site, method: MethodName, explain: bool, request: pytest.FixtureRequest
) -> None:
    fixture = "two_tasks" if method is MethodName.DSS else "joined"
    model = request.getfixturevalue(fixture)
    label, reason = REASONS["hammer"]
    chunks = list(
        site.ask(
            model, "hammer", explain=explain, stream=True, stream_options={"include_usage": True}
        )
    )
    *said, counted = chunks
    deltas = [chunk.choices[0].delta for chunk in said]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == label
    thoughts = [delta.model_extra.get("reasoning_content", "") for delta in deltas]
    assert "".join(thoughts) == (reason if explain else "")
    assert [chunk.choices[0].finish_reason for chunk in said][-2:] == [None, "stop"]
    whole = site.ask(model, "hammer", explain=explain)
    assert counted.usage == whole.usage
    assert whole.choices[0].message.content == label


@pytest.fixture(scope="module")
def joined(site: Site) -> str:
    return published(site.store, method=MethodName.SINGLE_TASK)


def test_a_student_that_says_both_in_one_is_told_apart(site: Site, joined: str) -> None:
    assert site.ask(joined, "violin").choices[0].message.content == "instrument"
    message = site.ask(joined, "violin", explain=True).choices[0].message
    assert message.content == "instrument"
    assert message.model_extra["reasoning_content"] == "it plays music"


def test_a_decoder_only_student_answers_after_its_suffix(site: Site) -> None:
    """And the one that was not asked for longest has left: two are kept."""
    model = published(site.store, kind="llama")
    assert len(site.loaded()) == 2
    made = site.ask(model, "apple", explain=True)
    assert made.choices[0].message.content == "fruit"
    assert made.choices[0].message.model_extra["reasoning_content"] == "it grows on trees"
    assert len(site.loaded()) == 2
    assert site.loaded()[-1] == model


@pytest.mark.parametrize("prompt", ["plain", "chat"])
def test_a_student_that_reasons_first_answers_with_a_label_whatever_it_is_asked(
    site: Site, prompt: Literal["plain", "chat"]
) -> None:
    spec = StudentSpec(answers="reasoned", prompt=prompt)
    model = published(site.store, kind="llama", student=spec)
    for thing, (label, reason) in REASONS.items():
        message = site.ask(model, thing, explain=True).choices[0].message
        assert message.content == label
        assert message.model_extra["reasoning_content"] == reason
    # Unknown things too: what follows the mark is one of the labels, and then the end.
    for thing in ("music", "question ? on the", "answer : animal answer : water"):
        made = site.ask(model, thing).choices[0]
        assert made.message.content in {label for label, _ in REASONS.values()}
        assert made.finish_reason == "stop"


# --- several outputs, and how sure a student is ---------------------------------------------------

REASONED = StudentSpec(answers="reasoned")
SURE = Confidence(mark=(), weights={"answer": 1.0}, fallback=Fallback(teacher="big", threshold=0.5))
SURE_VOTE = Confidence(
    weights={"share": 0.7, "answer": 0.3}, offset=-0.2, samples=4, temperature=1.0
)


def measured_of(student: Student, **more: Any) -> StudentAnswers:
    mark = student.make_mark()
    confidence = SURE.model_copy(update={"mark": mark})
    vote = SURE_VOTE.model_copy(update={"mark": mark})
    return StudentAnswers((), (), confidence, vote, **more)


@pytest.fixture(scope="module")
def doubting(site: Site) -> str:
    student = taught("llama", MethodName.DSS, REASONED)
    return published(site.store, kind="llama", student=REASONED, answers=measured_of(student))


@pytest.mark.parametrize("explain", [False, True])
def test_an_answer_comes_with_the_confidence_that_the_evaluation_would_give_it(
    site: Site, doubting: str, explain: bool
) -> None:
    """Of a known and of an unknown question, streamed or not; below the threshold the teacher
    should be asked."""
    student = taught("llama", MethodName.DSS, REASONED)
    labels = [label for label, _ in REASONS.values()]
    confidence = measured_of(student).confidence
    assert confidence is not None
    found = []
    for thing in ("trout", "question ? on the"):
        (output,) = student.sample(
            [f"explain: {question(thing)}"], max_new_tokens=12, options=labels, answers="marked"
        )
        assert output.answer_logprob is not None
        expected = confidence.compute({"answer": compute_log_odds(output.answer_logprob)})
        choice = site.ask(doubting, thing, explain=explain).choices[0]
        assert choice.confidence == pytest.approx(expected, rel=1e-3)
        assert choice.escalate is (expected < 0.5)
        *_, last = site.ask(doubting, thing, explain=explain, stream=True)
        assert last.choices[0].confidence == choice.confidence
        found.append(choice.confidence)
    assert found[0] > max(0.8, found[1])
    cut = site.ask(doubting, explain=True, max_tokens=1).choices[0]
    assert (cut.finish_reason, cut.message.content) == ("length", "")
    assert cut.message.reasoning_content


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_command_line_is_as_sure_as_the_server(site: Site, tmp_path: Path, kind: str) -> None:
    """Of the same folder, of a student that reasons first and of one that says a label alone."""
    reasons = kind == "llama"
    spec = REASONED if reasons else STUDENT
    student = taught(kind, MethodName.DSS, spec)
    answers = measured_of(student)
    if not reasons:
        answers = StudentAnswers((), (), SURE)
    model = published(site.store, kind=kind, student=spec, answers=answers)
    download_published_model(model, site.store, tmp_path / model, "model")
    local = LocalStudent(tmp_path / model)
    for thing in ("trout", "question ? on the"):
        served = site.ask(model, thing).choices[0]
        output = local.predict(question(thing), explain=False)
        assert output.label == served.message.content
        assert output.confidence == pytest.approx(served.confidence, rel=1e-3)
        assert output.escalate is served.escalate


@pytest.mark.parametrize(
    "shaped",
    [{"temperature": 1.0, "seed": 3}, {"frequency_penalty": 0.5}, {"top_p": 0.9}, {"stop": "x"}],
)
def test_what_was_not_measured_has_no_confidence(
    site: Site, doubting: str, shaped: dict[str, Any]
) -> None:
    assert "confidence" not in site.ask(doubting, **shaped).choices[0].model_extra


def test_a_vote_says_who_voted_for_what_and_how_sure_that_is(site: Site, doubting: str) -> None:
    made = site.ask(doubting, "trout", vote=4, explain=True)
    choice = made.choices[0]
    assert choice.message.content == "animal"
    assert choice.message.model_extra["reasoning_content"]
    assert sum(choice.vote.values()) == 4
    assert choice.vote["animal"] == max(choice.vote.values())
    assert 0 < choice.confidence < 1
    one = site.ask(doubting, "trout")
    assert made.usage.completion_tokens > 2 * one.usage.completion_tokens
    assert site.ask(doubting, "trout", vote=4).choices[0].vote == choice.vote
    # Of another number of outputs than were calibrated the vote alone is told.
    assert "confidence" not in site.ask(doubting, "trout", vote=3).choices[0].model_extra


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"vote": 4, "stream": True}, "leave out `stream`"),
        ({"vote": 4, "n": 2}, "leave out `n`"),
        ({"vote": 4, "best_of": 4}, "give one of them"),
        ({"vote": 1}, "vote"),
        ({"best_of": 64}, "best_of"),
    ],
)
def test_a_selection_that_cannot_be_made_is_refused(
    site: Site, doubting: str, asked: dict[str, Any], told: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=told):
        for _ in site.ask(doubting, **asked):
            pass


def test_a_student_without_reasons_has_nothing_to_vote_on(site: Site, two_tasks: str) -> None:
    with pytest.raises(openai.BadRequestError, match="does not answer behind a rationale"):
        site.ask(two_tasks, vote=4)


def test_a_judge_that_does_not_help_is_not_offered(site: Site, doubting: str) -> None:
    student = taught("llama", MethodName.DSS, REASONED)
    judged = JudgedAnswers(judge="judge-" + "0" * 24, version=1, useful=False, reason="it was told")
    report = AnsweringReport(judged=judged)
    useless = published(
        site.store, kind="llama", student=REASONED, answers=measured_of(student, report=report)
    )
    for model, told in ((useless, "does not help: it was told"), (doubting, "no judge of answers")):
        with pytest.raises(openai.BadRequestError, match=told) as refused:
            site.ask(model, best_of=4)
        assert refused.value.code == "judge_not_useful"


def test_the_judge_chooses_at_the_discriminator_or_says_that_it_is_away(
    site: Site, tmp_path: Path
) -> None:
    tiny.save_base(tmp_path / "tiny-bert")
    judge_id = "judge-" + "1" * 24
    student = taught("llama", MethodName.DSS, REASONED)
    judged = JudgedAnswers(judge=judge_id, version=1, useful=True)
    report = AnsweringReport(judged=judged)
    model = published(
        site.store, kind="llama", student=REASONED, answers=measured_of(student, report=report)
    )
    with pytest.raises(openai.InternalServerError, match="cannot be reached"):
        site.ask(model, best_of=4)
    models = ModelSettings(models_dir=tmp_path)
    served = build_app(DiscriminatorSettings(device="cpu"), site.store, models)
    with serving.app(served, port=site.judge_port) as url:
        judge = RemoteJudge(
            url,
            judge_id,
            base="tiny-bert",
            spec=JudgeSpec(pretrain_steps=2, hidden=8),
            seed=0,
            check=lambda: None,
        )
        pairs = [
            TrainingPair(question(thing), (f"{reason} answer: {label}",), ("it is answer: tool",))
            for thing, (label, reason) in REASONS.items()
        ]
        judge.pretrain(pairs)
        choice = site.ask(model, "trout", best_of=4, temperature=2.0, seed=5).choices[0]
        outputs = [
            site.ask(model, "trout", temperature=2.0, seed=5 + i, explain=True).choices[0].message
            for i in range(4)
        ]
        said = [f"{one.model_extra['reasoning_content']} answer: {one.content}" for one in outputs]
        scores = judge.score([(question("trout"), text) for text in said])
        assert choice.score == pytest.approx(max(scores), abs=1e-3)
        assert choice.message.content == outputs[scores.index(max(scores))].content


def test_a_student_of_labels_only_has_no_rationale_to_give(site: Site) -> None:
    model = published(site.store, kind="bert", method=MethodName.FINETUNE)
    assert site.ask(model, "violin").choices[0].message.content == "instrument"
    with pytest.raises(openai.BadRequestError, match="learned labels only") as refused:
        site.ask(model, explain=True)
    assert refused.value.code == "invalid_value"


def test_only_the_last_question_counts(site: Site, two_tasks: str) -> None:
    made = site.client.chat.completions.create(
        model=two_tasks,
        messages=[
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": question("trout")},
            {"role": "assistant", "content": "animal"},
            {"role": "user", "content": [{"type": "text", "text": question("hammer")}]},
        ],
    )
    assert made.choices[0].message.content == "tool"


def test_sampling_choices_and_log_probabilities(site: Site, two_tasks: str) -> None:
    made = site.ask(two_tasks, n=3, temperature=2.0, seed=7, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    again = site.ask(two_tasks, n=3, temperature=2.0, seed=7)
    assert [c.message.content for c in again.choices] == [c.message.content for c in made.choices]
    tokens = made.choices[0].logprobs.content
    assert len(tokens[0].top_logprobs) == 2
    assert tokens[0].logprob <= 0
    streamed = list(site.ask(two_tasks, n=2, stream=True))
    assert {chunk.choices[0].index for chunk in streamed} == {0, 1}


def test_a_raw_prompt_is_what_the_student_reads(site: Site, two_tasks: str) -> None:
    raw = site.client.completions.create(model=two_tasks, prompt=f"predict: {question('trout')}")
    assert raw.choices[0].text.strip() == "animal"
    assert raw.usage.prompt_tokens == 11
    pieces = site.client.completions.create(
        model=two_tasks, prompt=f"explain: {question('trout')}", stream=True
    )
    assert "".join(p.choices[0].text for p in pieces).strip() == "it swims in water"
    cut = site.ask(two_tasks, max_tokens=1)
    assert cut.choices[0].finish_reason == "length"


def test_what_is_not_published_is_not_found(site: Site) -> None:
    for model in ("gpt-4o", f"model-{'0' * 24}", "../../etc/passwd"):
        with pytest.raises(openai.NotFoundError) as refused:
            site.ask(model)
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    body = {"model": f"model-{'0' * 24}", "messages": [{"role": "user", "content": "x"}]}
    told = httpx2.post(f"{site.direct}/v1/chat/completions", json=body)
    assert (told.status_code, told.json()["error_type"]) == (404, "model_not_found")


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "qcrd.json"])
def test_a_broken_student_is_an_error_and_the_others_go_on(
    site: Site, two_tasks: str, broken: str
) -> None:
    model = published(site.store)
    site.store.put(f"{keys.model_prefix(model)}{broken}", b"{]")
    for _ in range(2):
        with pytest.raises(openai.APIStatusError, match="cannot be loaded") as refused:
            site.ask(model)
        assert (refused.value.status_code, refused.value.code) == (424, "model_not_loaded")
        assert "/tmp" not in str(refused.value)
    assert site.process.poll() is None
    assert site.ask(two_tasks).choices[0].message.content == "animal"


def test_many_ask_for_more_students_than_fit_and_all_are_answered(site: Site) -> None:
    models = [published(site.store) for _ in range(3)]
    asked = [(model, thing) for thing in REASONS for model in models]
    with ThreadPoolExecutor(12) as pool:
        said = list(pool.map(lambda pair: site.ask(*pair).choices[0].message.content, asked))
    assert said == [REASONS[thing][0] for _, thing in asked]
    assert len(site.loaded()) == 2


def test_a_deleted_student_is_gone(site: Site) -> None:
    model = published(site.store)
    assert site.ask(model).choices[0].message.content == "animal"
    assert site.client.models.delete(model).deleted
    assert site.store.list(keys.model_prefix(model)) == []
    with pytest.raises(openai.NotFoundError):
        site.ask(model)
    assert model not in [found.id for found in site.client.models.list()]


def test_sigterm_answers_what_it_has_begun(site: Site, two_tasks: str, tmp_path: Path) -> None:
    """The request is waiting for its student to be loaded when the signal comes."""
    port = free_ports(1)[0]
    process = started(site.settings, port, TMPDIR=str(tmp_path))
    body = {"model": two_tasks, "messages": [{"role": "user", "content": question("trout")}]}
    with ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{port}"
        asked = pool.submit(httpx2.post, f"{url}/v1/chat/completions", json=body, timeout=60)
        while "qcrd_students_waiting 1.0" not in httpx2.get(f"{url}/metrics").text:
            assert not asked.done(), asked.result().text
        process.send_signal(signal.SIGTERM)
        assert asked.result().json()["choices"][0]["message"]["content"] == "animal"
    assert process.wait(120) == 0
    assert list(tmp_path.glob("qcrd-student-*")) == []


def test_a_completion_without_a_limit_ends_within_the_decoder_s_positions(site: Site) -> None:
    """An encoder and a decoder with 128 positions each; at this temperature it does not stop by
    itself."""
    model = published(site.store, kind="bert")
    answer = site.client.completions.create(
        model=model, prompt="what kind", temperature=2, seed=3, extra_body={"top_p": 0.99}
    )
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 128


@pytest.mark.parametrize("stop", ["", [""], ["", "###"]])
def test_an_empty_stop_sequence_ends_nothing(site: Site, two_tasks: str, stop: Any) -> None:
    given, free = site.ask(two_tasks, stop=stop), site.ask(two_tasks)
    assert given.choices[0].message.content == free.choices[0].message.content
    assert given.usage.completion_tokens == free.usage.completion_tokens


@pytest.mark.parametrize("field", ["echo", "logprobs", "best_of", "suffix"])
def test_what_completions_do_not_do_is_refused_by_name(
    site: Site, two_tasks: str, field: str
) -> None:
    asked: dict[str, Any] = {"echo": True, "logprobs": 1, "best_of": 3, "suffix": "end"}
    with pytest.raises(openai.BadRequestError, match=f"(?i){field}"):
        site.client.completions.create(
            model=two_tasks, prompt="predict: what", extra_body={field: asked[field]}
        )


def test_a_picture_is_refused_in_words(site: Site, two_tasks: str) -> None:
    parts: list[Any] = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "text", "text": "What is it?"},
    ]
    with pytest.raises(openai.BadRequestError, match="holds an image: send text only"):
        site.client.chat.completions.create(
            model=two_tasks, messages=[{"role": "user", "content": parts}]
        )
