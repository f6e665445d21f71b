"""Which lines an estimate says are too long, and when it says that it cannot know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.api.jobs.estimating.prompt_lengths import (
    LONGEST_PROMPTS,
    SAMPLED_PROMPTS,
    choose_prompts,
)
from services.api.settings import TeacherConfig, TeacherSettings
from tests.fakes.scripted_teacher import ScriptedTeacher
from tests.unit.api.gateway_client import Here, sums

LIMITS = {"max_input_tokens": 1000, "max_total_tokens": 1200}
Estimate = Callable[..., dict[str, Any]]


def long_rows(count: int, long: dict[int, int]) -> list[dict[str, Any]]:
    """`long`: so many words more in the question of that line."""
    rows = sums(count)
    for line, words in long.items():
        rows[line - 1]["question"] += " word" * words
    return rows


@pytest.fixture
def teachers() -> Iterator[list[ScriptedTeacher]]:
    made: list[ScriptedTeacher] = []
    yield made
    for teacher in made:
        teacher.close()


@pytest.fixture
def estimate(tmp_path: Path, teachers: list[ScriptedTeacher]) -> Estimate:
    def run(
        training: list[dict[str, Any]], test: list[dict[str, Any]] | None = None, **script: Any
    ) -> dict[str, Any]:
        teachers.append(ScriptedTeacher(lambda prompt, seed: " x", **script))
        config = TeacherConfig(url=teachers[-1].url)
        here = Here(tmp_path / "models", teachers=TeacherSettings(teachers={"default": config}))
        rationales = {"max_new_tokens": 300}
        method = {
            "type": "qcrd",
            "qcrd": {"task": {"answer": "number"}, "rationales": rationales},
        }
        body = {
            "model": "tiny",
            "training_file": here.file(training),
            "test_file": here.file(test) if test else None,
            "method": method,
        }
        reply = here.client.post("/v1/fine_tuning/jobs/estimate", json=body)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    return run


def count_words(text: str) -> int:
    return len(text.split())


def test_lines_that_do_not_fit_are_named(estimate: Estimate) -> None:
    """A prompt may have min(1000, 1200 - 300) tokens."""
    found = estimate(
        long_rows(30, {7: 950, 20: 800}),
        [{"question": "What is 77 + 1?" + " word" * 2000, "label": "78"}],
        tokenize=count_words,
        limits=LIMITS,
    )
    lengths = found["lengths"]
    assert (lengths["prompts"], lengths["tokenized"], lengths["max_prompt_tokens"]) == (31, 31, 900)
    assert [(line["file"], line["line"]) for line in lengths["too_long"]] == [
        ("training_file", 7),
        ("test_file", 1),
    ]
    assert lengths["too_long_count"] == 2
    assert all(line["tokens"] > 900 for line in lengths["too_long"])
    assert "training_file line 7" in lengths["message"]
    assert "test_file line 1" in lengths["message"]


def test_prompts_that_fit_are_said_to(estimate: Estimate) -> None:
    lengths = estimate(sums(5), tokenize=count_words, limits=LIMITS)["lengths"]
    assert lengths["message"] == "all prompts were tokenized and fit into 900 tokens"
    assert lengths["too_long"] == []


def test_a_teacher_without_a_tokenizer_cannot_know(estimate: Estimate) -> None:
    found = estimate(sums(5), limits=LIMITS)
    lengths = found["lengths"]
    assert "has no /tokenize: whether every prompt fits cannot be known" in lengths["message"]
    assert (lengths["tokenized"], lengths["too_long_count"]) == (None, None)
    assert any("4 characters a token" in line for line in found["teacher"]["basis"])


def test_a_teacher_without_limits_cannot_know(estimate: Estimate) -> None:
    lengths = estimate(sums(5), tokenize=count_words)["lengths"]
    assert "does not state its limits" in lengths["message"]


def test_of_many_prompts_the_longest_and_a_sample_are_counted(
    estimate: Estimate, teachers: list[ScriptedTeacher]
) -> None:
    lengths = estimate(long_rows(1500, {1400: 2000}), tokenize=count_words, limits=LIMITS)[
        "lengths"
    ]
    assert (lengths["prompts"], lengths["tokenized"]) == (1500, 1200)
    assert [line["line"] for line in lengths["too_long"]] == [1400]
    # With the sixteen that the cost rests on.
    assert 1200 <= len(set(teachers[0].tokenized)) <= 1216


def test_the_chosen_are_the_longest_by_bytes_and_always_the_same_others() -> None:
    prompts = [f"{number:05d}" for number in range(3000)]
    for place in range(1000, 1000 + LONGEST_PROMPTS):
        prompts[place] += "é"
    count, chosen = choose_prompts(prompts)
    assert (count, len(chosen)) == (3000, LONGEST_PROMPTS + SAMPLED_PROMPTS)
    assert set(range(1000, 1000 + LONGEST_PROMPTS)) <= chosen
    _, again = choose_prompts(reversed(prompts))
    assert {prompts[2999 - place] for place in again} == {prompts[place] for place in chosen}
