"""Stop rules, characters that span tokens, llama.cpp's chunks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcrd.errors import Invalid
from services.teacher import sse
from services.teacher.engines.base import UNKNOWN_TOKEN_ID, Token
from services.teacher.engines.factory import build_engine
from services.teacher.engines.llama_cpp.engine import ChunkDecoder, fold_seed
from services.teacher.engines.llama_cpp.prefix_sharing import (
    PREFIX_CHARACTERS,
    PrefixGate,
    SampleGate,
)
from services.teacher.engines.llama_cpp.server import locate_tokens
from services.teacher.engines.transformers.detokenizer import Detokenizer
from services.teacher.engines.upstream.openai_choice import cut_at_stop
from services.teacher.errors import GenerationFailed
from services.teacher.inference.stopping import StoppingCriteria
from services.teacher.settings import EngineSettings


def words(*texts: str) -> list[Token]:
    return [Token(i, text) for i, text in enumerate(texts)]


def test_a_stop_string_across_tokens_stays_in_the_text() -> None:
    stopping = StoppingCriteria(10, ("Q:",))
    reasons = [stopping.update(token) for token in words("so", " 4", "\nQ", ":")]
    assert reasons == [None, None, None, "stop_sequence"]
    assert stopping.text == "so 4\nQ:"


def test_count_comes_before_end_token_before_stop_string() -> None:
    end = Token(9, "</s>", special=True, finish_reason="eos_token")
    assert StoppingCriteria(1, ("x",)).update(end) == "length"
    assert StoppingCriteria(2, ("",)).update(end) == "eos_token"
    assert StoppingCriteria(1, ("x",)).update(Token(1, "x")) == "length"


def test_special_tokens_count_but_are_not_text() -> None:
    stopping = StoppingCriteria(3, ())
    for token in (Token(1, "a"), Token(2, "<pad>", special=True), Token(3, "b")):
        stopping.update(token)
    assert (stopping.text, stopping.token_count) == ("ab", 3)


@given(st.text(min_size=1))
def test_detokenizer_loses_no_character_of_any_text(text: str) -> None:
    """One id per byte, the worst split there is."""
    detokenizer = Detokenizer(lambda ids: bytes(ids).decode(errors="replace"))
    pieces = [detokenizer.add(byte) for byte in text.encode()]
    # A replacement character in the text itself looks like one still incomplete.
    if not text.endswith("\ufffd"):
        assert "".join(pieces) == text


def test_detokenizer_gives_the_character_with_its_last_piece() -> None:
    detokenizer = Detokenizer(lambda ids: bytes(ids).decode(errors="replace"))
    assert [detokenizer.add(b) for b in "aé".encode()] == ["a", "", "é"]


def chunk(text: str, ident: int, count: int, data: bytes | None = None) -> dict[str, object]:
    raw = text.encode() if data is None else data
    entry = {"id": ident, "bytes": list(raw), "logprob": -1.0, "top_logprobs": []}
    choice = {"text": text, "logprobs": {"content": [entry]}, "finish_reason": None}
    return {"choices": [choice], "timings": {"predicted_n": count}}


def last(reason: str, count: int) -> dict[str, object]:
    choice = {"text": "", "logprobs": None, "finish_reason": reason}
    return {"choices": [choice], "usage": {"completion_tokens": count}}


def test_pieces_llama_cpp_swallows_come_out_with_unknown_ids() -> None:
    decoder = ChunkDecoder()
    chunks = [chunk("a", 5, 1), chunk("🦊", 7, 4), last("length", 5)]
    tokens = [token for item in chunks for token in decoder.feed(item)]
    assert [(t.id, t.text) for t in tokens] == [
        (5, "a"),
        (UNKNOWN_TOKEN_ID, ""),
        (UNKNOWN_TOKEN_ID, ""),
        (7, "🦊"),
        (UNKNOWN_TOKEN_ID, ""),
    ]


def test_a_control_token_ends_the_answer_only_if_llama_cpp_says_so() -> None:
    decoder = ChunkDecoder()
    chunks = [chunk("", 1, 1), chunk("a", 5, 2), chunk("", 2, 3), last("stop", 3)]
    tokens = [token for item in chunks for token in decoder.feed(item)]
    assert [(t.id, t.special, t.finish_reason) for t in tokens] == [
        (1, True, None),
        (5, False, None),
        (2, True, "eos_token"),
    ]


def test_llama_cpps_error_chunk_is_raised() -> None:
    with pytest.raises(GenerationFailed, match="too long"):
        list(ChunkDecoder().feed({"error": {"message": "too long"}}))


@given(st.integers(0, 2**64 - 1))
def test_folded_seeds_are_never_llama_cpps_random(seed: int) -> None:
    assert 0 <= fold_seed(seed) < 2**32 - 1


def test_offsets_are_bytes_and_added_tokens_have_none() -> None:
    fox = "🦊".encode()
    tokens = [
        {"id": 1, "piece": "<s>"},
        {"id": 2, "piece": " é"},
        {"id": 3, "piece": list(fox[:2])},
        {"id": 4, "piece": list(fox[2:])},
    ]
    places = [(piece.start, piece.stop) for piece in locate_tokens("é🦊", tokens)]
    assert places == [(0, 0), (0, 2), (2, 4), (4, 6)]


def test_a_shared_beginning_is_read_once_and_others_wait_for_it() -> None:
    gate, reads, passed = PrefixGate(), [], []
    reading = threading.Event()

    def read() -> None:
        reading.wait(60)
        reads.append(1)

    def enter(i: int) -> None:
        gate.wait_for_prefill("p" * PREFIX_CHARACTERS + str(i), read)
        passed.append((i, len(reads)))

    enter(0)
    threads = [threading.Thread(target=enter, args=(i,)) for i in range(1, 6)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert passed == [(0, 0)]
    reading.set()
    for thread in threads:
        thread.join(60)
    assert len(reads) == 1
    assert sorted(passed) == [(0, 0)] + [(i, 1) for i in range(1, 6)]


def test_short_prompts_never_wait() -> None:
    gate = PrefixGate()
    for _ in range(3):
        gate.wait_for_prefill("short", lambda: pytest.fail("read"))


@pytest.mark.parametrize(
    ("text", "seen", "expected"),
    [("4\nQ: next", "so ", "4\nQ:"), (": next", "4\nQ", ":"), ("no stop", "", "no stop")],
)
def test_an_upstream_chunk_is_cut_after_the_stop_string(
    text: str, seen: str, expected: str
) -> None:
    assert cut_at_stop(text, seen, ("Q:",)) == expected


def test_silence_is_filled_with_comments_and_loses_nothing() -> None:
    async def run() -> list[bytes]:
        pinged = asyncio.Event()

        async def slow() -> AsyncGenerator[bytes, None]:
            yield b"1"
            await pinged.wait()
            yield b"2"

        got = []
        async for item in sse.with_pings(slow(), seconds=0.05):
            got.append(item)
            if got.count(sse.PING) == 2:
                pinged.set()
        return got

    got = asyncio.run(run())
    assert got[:3] == [b"1", sse.PING, sse.PING]
    assert [item for item in got if item != sse.PING] == [b"1", b"2"]


def test_events_are_one_compact_line() -> None:
    assert sse.format_event({"a": "é\n", "b": None}) == 'data: {"a":"é\\n","b":null}\n\n'.encode()


@pytest.mark.parametrize("model", ["/nowhere", "/nowhere/m.gguf", "smollm3", "."])
def test_a_model_that_is_not_there_names_the_setting(model: str) -> None:
    with pytest.raises(Invalid) as missing:
        build_engine(EngineSettings(model_id=model))
    assert missing.value.message.startswith(f"MODEL_ID={model}: ")
    assert missing.value.param == "MODEL_ID"


def test_a_prompt_is_read_once_for_all_its_open_samples() -> None:
    gate, reads = SampleGate(), []

    def read() -> None:
        time.sleep(0.05)
        reads.append(threading.get_ident())

    told: list[bool] = []

    def sample() -> None:
        told.append(gate.wait_for_prefill("p", read))

    with ExitStack() as open_samples:
        for _ in range(5):
            open_samples.enter_context(gate.track_request("p"))
        threads = [threading.Thread(target=sample) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert (len(reads), told) == (1, [True] * 5)
    with gate.track_request("p"):
        assert gate.wait_for_prefill("p", read) is False
    assert gate.wait_for_prefill("p", read) is False  # its client has left
    assert len(reads) == 1


def test_a_reader_that_fails_leaves_nobody_waiting() -> None:
    gate = SampleGate()

    def fail() -> None:
        raise GenerationFailed("no")

    with gate.track_request("p"), gate.track_request("p"):
        with pytest.raises(GenerationFailed):
            gate.wait_for_prefill("p", fail)
        assert gate.wait_for_prefill("p", fail) is True
