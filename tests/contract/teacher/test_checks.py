"""The minimum conformance checks of TGI's contract, native part, one test each, in strict mode and
in ours. Completions, chat, calls, grammars and headers: `test_teacher_conformance`; the clients:
`test_teacher_clients`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.contract.teacher.test_conformance import ASKED, Calling, post
from tests.contract.teacher.test_wire import WORDS, events, generate, serving, wait_for

TEXT = "".join(WORDS)
JSON_BODY = {"content-type": "application/json"}


@pytest.fixture(scope="module", params=[False, True], ids=["ours", "strict"])
def strict(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def engine() -> Calling:
    return Calling()


@pytest.fixture(scope="module")
def url(strict: bool, engine: Calling) -> Iterator[str]:
    with serving(engine, tgi_strict=strict, payload_limit=10_000) as address:
        yield address


def details(url: str, inputs: str = "hi", /, **parameters: Any) -> Any:
    return generate(url, inputs, details=True, **parameters).json()["details"]


ROUTES: list[tuple[str, str, Any, str, type]] = [
    ("GET", "/info", None, "application/json", dict),
    ("GET", "/v1/models", None, "application/json", dict),
    ("POST", "/generate", {"inputs": "a"}, "application/json", dict),
    ("POST", "/", {"inputs": "a"}, "application/json", list),
    ("POST", "/generate_stream", {"inputs": "a"}, "text/event-stream", str),
    ("POST", "/", {"inputs": "a", "stream": True}, "text/event-stream", str),
    ("POST", "/tokenize", {"inputs": "a"}, "application/json", list),
    ("POST", "/chat_tokenize", {"messages": ASKED}, "application/json", dict),
    ("POST", "/v1/completions", {"prompt": "a"}, "application/json", dict),
    ("POST", "/v1/completions", {"prompt": "a", "stream": True}, "text/event-stream", str),
    ("POST", "/v1/chat/completions", {"messages": ASKED}, "application/json", dict),
    (
        "POST",
        "/v1/chat/completions",
        {"messages": ASKED, "stream": True},
        "text/event-stream",
        str,
    ),
    ("POST", "/invocations", {"inputs": "a"}, "application/json", list),
    ("POST", "/vertex", {"instances": [{"inputs": "a"}]}, "application/json", dict),
    ("GET", "/docs", None, "text/html; charset=utf-8", str),
    ("GET", "/api-doc/openapi.json", None, "application/json", dict),
]


@pytest.mark.parametrize(("method", "path", "body", "kind", "shape"), ROUTES)
def test_a_every_route(url: str, method: str, path: str, body: Any, kind: str, shape: type) -> None:
    reply = httpx2.request(method, url + path, json=body)
    assert (reply.status_code, reply.headers["content-type"]) == (200, kind)
    assert isinstance(reply.json() if kind == "application/json" else reply.text, shape)
    if kind == "text/event-stream":
        assert reply.headers["cache-control"] == "no-cache"
        assert reply.headers["x-accel-buffering"] == "no"
        assert "x-compute-type" in reply.headers
        assert reply.headers["x-compute-characters"].isdecimal()


def test_a_health_is_empty_and_info_has_all_of_tgis_keys(url: str, strict: bool) -> None:
    for path in ("/", "/health", "/ping"):
        reply = httpx2.get(url + path)
        assert (reply.status_code, reply.content) == (200, b"")
    told = httpx2.get(f"{url}/info").json()
    tgis = """model_id model_sha model_pipeline_tag max_concurrent_requests max_best_of
    max_stop_sequences max_input_tokens max_total_tokens validation_workers max_client_batch_size
    router version sha docker_label""".split()
    assert list(told)[: len(tgis)] == tgis
    assert told["router"] == "text-generation-router"
    assert (len(told) == len(tgis)) is strict
    assert httpx2.get(f"{url}/metrics").headers["content-type"].startswith("text/plain")


def test_b_the_root_answers_an_array_and_generate_an_object(url: str) -> None:
    body = {"inputs": "hi", "parameters": {"return_full_text": False}}
    assert post(url, "/", **body).json() == [{"generated_text": TEXT}]
    assert post(url, "/generate", **body).json() == {"generated_text": TEXT}


PREFIX = "Input validation error: "
LIMITS: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
    ({"temperature": 0}, "`temperature` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": -2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"truncate": 1000}, "`truncate` must be strictly positive and less than 999. Given: 1000"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    (
        {"max_new_tokens": 999},
        "`inputs` tokens + `max_new_tokens` must be <= 1000. "
        "Given: 2 `inputs` tokens and 999 `max_new_tokens`",
    ),
    (
        {"grammar": {"type": "json", "value": {}}},
        "grammar is not valid: Grammar must have a 'properties' field",
    ),
]


@pytest.mark.parametrize(("parameters", "said"), LIMITS)
def test_c_each_limit_as_an_answer_and_as_an_event(
    url: str, parameters: dict[str, Any], said: str
) -> None:
    told = {"error": PREFIX + said, "error_type": "validation"}
    reply = generate(url, **parameters)
    assert (reply.status_code, reply.json()) == (422, told)
    if "best_of" not in parameters:
        assert events(url, **parameters) == [told]


def test_c_what_only_streams_refuse(url: str, strict: bool) -> None:
    for parameters, said in (
        ({"best_of": 2}, "`best_of` != 1 is not supported when streaming tokens"),
        (
            {"decoder_input_details": True},
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
    ):
        assert events(url, **parameters) == [{"error": PREFIX + said, "error_type": "validation"}]
    assert generate(url, best_of=0).status_code == (200 if strict else 422)


@pytest.mark.parametrize("name", ["do_sample", "watermark", "details", "stop", "parameters"])
def test_c_null_is_no_value_of_what_has_a_default(url: str, strict: bool, name: str) -> None:
    body = {"inputs": "a", "parameters": {name: None}} if name != "parameters" else {name: None}
    reply = post(url, "/generate", **{"inputs": "a", **body})
    assert reply.status_code == 422
    text = reply.text if strict else reply.json()["error"]
    assert text.startswith("Failed to deserialize the JSON body into the target type: ")


def test_c_null_is_taken_where_tgi_takes_it(url: str) -> None:
    names = """temperature top_k top_p typical_p repetition_penalty frequency_penalty seed best_of
    max_new_tokens truncate return_full_text top_n_tokens grammar adapter_id""".split()
    assert generate(url, **dict.fromkeys(names)).json() == {"generated_text": TEXT}


@pytest.mark.parametrize(
    ("prompt", "status", "error", "kind"),
    [
        ("fail", 424, "Request failed during generation: out of luck", "generation"),
        ("break", 500, "Incomplete generation", "incomplete_generation"),
        ("", 422, "Input validation error: `inputs` cannot be empty", "validation"),
    ],
)
def test_c_errors_of_generating(url: str, prompt: str, status: int, error: str, kind: str) -> None:
    reply = generate(url, prompt)
    assert (reply.status_code, reply.json()) == (status, {"error": error, "error_type": kind})
    in_stream = {"error": error, "error_type": kind}
    if kind == "incomplete_generation":
        in_stream = {"error": f"{error} stream", "error_type": f"{kind}_stream"}
    assert events(url, prompt)[-1] == in_stream


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"content": b"{", "headers": JSON_BODY}, 400),
        ({"content": b'{"inputs": 1}', "headers": JSON_BODY}, 422),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415),
        ({"content": b'"' + b"x" * 10_001, "headers": JSON_BODY}, 413),
        ({"content": b'"' + b"x" * 3_000_000, "headers": JSON_BODY}, 413),
    ],
)
def test_c_bodies_that_cannot_be_read_on_every_route(
    url: str, strict: bool, sent: dict[str, Any], status: int
) -> None:
    for path in {path for method, path, *_ in ROUTES if method == "POST"}:
        reply = httpx2.post(url + path, **sent)
        assert reply.status_code == status
        kind = "text/plain; charset=utf-8" if strict else "application/json"
        assert reply.headers["content-type"] == kind


def test_c_the_key_guards_tgis_routes_and_no_others(strict: bool) -> None:
    with serving(Calling(), tgi_strict=strict, api_key="Secret") as url:
        for method, path, body, *_ in ROUTES:
            free = method == "GET" or path == "/chat_tokenize"
            reply = httpx2.request(method, url + path, json=body)
            assert reply.status_code == (200 if free else 401), path
            if not free:
                assert (reply.content == b"") is strict
            headers = {"authorization": "bEARER secret"}
            assert httpx2.request(method, url + path, json=body, headers=headers).is_success


def test_d_full_comes_before_wrong_and_every_permit_comes_back(strict: bool) -> None:
    engine = Calling()
    with serving(engine, tgi_strict=strict, max_concurrent_requests=1) as url:
        with httpx2.stream("POST", f"{url}/generate_stream", json={"inputs": "slow"}) as first:
            lines = first.iter_lines()
            next(lines)
            reply = generate(url, temperature=0.0)
            told = {"error": "Model is overloaded", "error_type": "overloaded"}
            assert (reply.status_code, reply.json()) == (429, told)
            assert ("retry-after" in reply.headers) is not strict
            assert events(url) == [told]
            assert generate(url, best_of=3).status_code == 422
        wait_for(lambda: engine.open == 0)
        for prompt, status in (("fail", 424), ("break", 500), ("", 422), ("hi", 200), ("hi", 200)):
            assert generate(url, prompt).status_code == status


def test_e_greedy_repeats_and_a_seed_replays(url: str) -> None:
    assert details(url) == details(url)
    assert details(url)["seed"] is None
    drawn = details(url, do_sample=True)
    again = details(url, do_sample=True, seed=drawn["seed"])
    assert isinstance(drawn["seed"], int)
    assert again == drawn
    assert post(url, "/generate", inputs="hi").json() != {"generated_text": TEXT}  # it samples


def test_f_the_texts_of_the_tokens_are_the_answer(url: str) -> None:
    body = generate(url, details=True).json()
    tokens = body["details"]["tokens"]
    assert "".join(t["text"] for t in tokens if not t["special"]) == body["generated_text"]
    assert body["details"]["generated_tokens"] == len(tokens)
    assert tokens[-1] == {"id": 99, "text": "</s>", "logprob": -0.1, "special": True}
    prefill = details(url, decoder_input_details=True)["prefill"]
    assert prefill[0]["logprob"] is None
    assert [list(item) for item in prefill] == [["id", "text", "logprob"]] * 2
    implied = generate(url, decoder_input_details=True).json()
    assert len(implied["details"]["prefill"]) == 2


def test_g_one_token_is_one_event(url: str) -> None:
    [only] = events(url, max_new_tokens=1, details=True)
    assert (only["index"], only["generated_text"]) == (1, "one")
    assert only["details"]["finish_reason"] == "length"


def test_h_a_stop_string_stays_at_the_end(url: str) -> None:
    body = generate(url, stop=["Q:", "never"], details=True).json()
    assert body["generated_text"].endswith("\nQ:")
    assert body["details"]["finish_reason"] == "stop_sequence"


def test_i_the_prompt_in_front(url: str) -> None:
    for path in ("/generate", "/"):
        body = {"inputs": "hi", "parameters": {"return_full_text": True, "max_new_tokens": 1}}
        reply = post(url, path, **body).json()
        assert (reply[0] if path == "/" else reply) == {"generated_text": "hione"}
    [last] = events(url, return_full_text=True, max_new_tokens=1)
    assert last["generated_text"] == "hione"


def test_j_truncate_keeps_the_tail(url: str) -> None:
    reply = generate(url, "hello", truncate=2, return_full_text=True, max_new_tokens=1)
    assert reply.json() == {"generated_text": "loone"}
    assert reply.headers["x-prompt-tokens"] == "2"


def test_k_as_many_top_tokens_as_asked(url: str) -> None:
    for count in (1, 2):
        told = details(url, top_n_tokens=count, max_new_tokens=3)
        assert [len(top) for top in told["top_tokens"]] == [count] * 3
        got = events(url, top_n_tokens=count, max_new_tokens=3)
        assert [len(event["top_tokens"]) for event in got] == [count] * 3
    assert "top_tokens" not in details(url, top_n_tokens=0)


def test_m_framing_to_the_byte(url: str) -> None:
    body = {"inputs": "hi", "parameters": {"max_new_tokens": 2, "details": True}}
    reply = httpx2.post(f"{url}/generate_stream", json=body)
    token = '{"id":%d,"text":"%s","logprob":-0.5,"special":false}'
    assert reply.text == (
        f'data: {{"index":1,"token":{token % (0, "one")},"generated_text":null,"details":null}}\n\n'
        f'data: {{"index":2,"token":{token % (1, " two")},"generated_text":"one two","details":'
        '{"finish_reason":"length","generated_tokens":2,"seed":null,"input_length":2}}\n\n'
    )
    chat = {"messages": ASKED, "stream": True, "max_tokens": 1}
    for path, asked in (
        ("/v1/chat/completions", chat),
        ("/v1/completions", {"prompt": "fail", "stream": True}),
    ):
        text = post(url, path, **asked).text
        assert text.endswith("\n\ndata: [DONE]\n\n")
        assert all(part.startswith("data: ") for part in text.split("\n\n")[:-1])


def test_t_the_counters_move_as_tgis(url: str, strict: bool) -> None:
    """TGI counts a request to /v1 where it arrives and again where it generates."""

    def read(name: str) -> float:
        lines = httpx2.get(f"{url}/metrics").text.splitlines()
        found = [line.rsplit(" ", 1)[1] for line in lines if line.startswith(f"{name} ")]
        return float(found[0]) if found else 0.0

    names = ["tgi_request_count", "tgi_request_success", "tgi_request_generated_tokens_sum"]
    before = [read(name) for name in names]
    generate(url, max_new_tokens=2)
    post(url, "/v1/completions", prompt="a", max_tokens=3)
    after = [read(name) for name in names]
    moved = [now - then for now, then in zip(after, before, strict=True)]
    assert moved == [3 if strict else 2, 2, 5]
    for prompt, label in (("fail", "generation"), ("break", "incomplete"), ("", "validation")):
        name = f'tgi_request_failure{{err="{label}"}}'
        then = read(name)
        generate(url, prompt)
        assert read(name) == then + 1


@pytest.mark.parametrize("path", ["/generate_stream", "/v1/completions", "/v1/chat/completions"])
def test_u_a_client_that_leaves_stops_the_engine_within_three_tokens(
    url: str, engine: Calling, path: str
) -> None:
    """The engine needs 0.2 s for each of its ten tokens."""
    before = engine.given
    body = {
        "inputs": "slow", "prompt": "slow", "stream": True, "parameters": {}, "temperature": 0,
        "messages": [{"role": "user", "content": "slow"}],
    }  # fmt: skip
    with httpx2.stream("POST", url + path, json=body) as reply:
        lines = reply.iter_lines()
        seen = [json.loads(line[6:]) for line, _ in zip(lines, range(3), strict=False) if line]
    wait_for(lambda: engine.open == 0)
    assert engine.given - before - len(seen) <= 3
