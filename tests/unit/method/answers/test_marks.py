"""Where an answer stands: marks of several languages, corrections, thoughts, turns, objects."""

from __future__ import annotations

import pytest

from qcrd.method.answers import ParsedOutput, parse_output
from qcrd.records.rationales import Question
from qcrd.records.specs.task import AnswerKind, TaskSpec

NUMBER, TEXT = TaskSpec(answer=AnswerKind.NUMBER), TaskSpec()

MARKED = (
    *("#### 4", "Answer: 4", "**Answer: 4**", "*Answer*: 4", "**Final Answer**\n\n4", "Ans: 4"),
    *("### Final Answer\n\n**4**", "Final answer\n4", "<answer> 4 </answer>", "[ANSWER] 4"),
    *("\\[\n\\boxed{4}\n\\]", "**Answer:** $\\boxed{4}$", "> **Answer:** 4", "Answer:\n$$4$$"),
    *("Respuesta final: 4", "Réponse : 4", "Re\u0301ponse : 4", "Resposta: 4", "Risposta: 4"),
    *("Antwoord: 4", "Ответ: 4", "最终答案：4", "答え：4", "정답: 4", "الجواب: ٤", "उत्तर: ४"),
    *("Cevap: 4", "Svar: 4", "Đáp án: 4", "Odpowiedź: 4", "Endgültige Antwort: 4"),
    *(
        "La respuesta es 4.",
        "Die Antwort lautet 4.",
        "答案是4。",
        "答えは4です。",
        "정답은 4입니다.",
    ),
    *("The answer is thus \\boxed{4}.", "Thus, the answer should be 4.", "My answer is 4."),
    *("The answer is 4. Check: 2 + 2 = 4.", "The answer is 4 because 2 is even.", "Answer = 4"),
    *("Answer: 3\nAnswer: 4", "Answer: 4\n\nFinal answer: 4", "Therefore it is 4."),
    *("The answer to part 1 is 3. The answer to part 2 is 4.", "<Answer>: 3 or 4\n<Answer>: 4"),
    *("<Answer>: 3\nWait, that's wrong. The answer is 4.", "Answer: 3. Actually, it is 4."),
    *("Answer: 3\nCorrection: 4", "Answer: 3\nSorry, I meant 4.", "The answer is not 3 but 4."),
    *("The answer is 4. The answer is not 3.", "Answer: 4\nExplanation: not 5, since 2 + 2."),
    *("<Answer>: 4\n\n<Explanation>: Six.\n<Answer>: 6",),
    *("Answer: 4<|eot_id|>5", "Answer: 4\n\nHuman: 5", "Answer: 4\n\n**Question:** x\nAnswer: 5"),
    *("Answer: 4\n\nLet me know if you need help with 5 more!", "Answer: 4 (not 5)"),
)
UNMARKED = (
    *("Answer: 4 or 5", "Answer:\n- 4", "Answer:\n1. four\n2. five", "Answer:", "Answer: ?"),
    *("#### 3 or 4", "A: 4", "Antwort: 1.500", "The answer is 4!", "Is the answer 4?"),
    *("If the answer is 4, we are done.", "The answer isn't 4.", "The answer cannot be 4."),
    *("La respuesta no es 4.", "Die Antwort ist nicht 4.", "答案不是4。", "答案是3或4。"),
    *("<Answer>: 4\nThe answer is 5.", "\\boxed{3}\n\nThe answer is 4.", "\\boxed{3}, \\boxed{4}"),
    *("<Answer>: 4\n<Answer>: cannot be determined", "Answer: 4\nThe answer cannot be determined."),
    *("The answer is 4. No, 5.", "Answer: 4\nHmm, let me recheck.", "Answer: 4\nor 5", "4 is it"),
    *("Answer: x = 1\ny = 2", "Answer: 4\n5", "The answer is 4. Or 5.", "-\\boxed{4}"),
    *("The answer is 4. The answer is not 4.", "Answer: 4\n\nTherefore 5", "So it is 3 or 4."),
    *('{"explanation": "The answer is 4.", "answer": 5,', '{"explanation": "a", "answer": [4]}'),
    *('{"explanation": "a", "answer": 4}\n{"explanation": "b", "answer": 5}', "<think>4"),
    *('{"explanation": "a", "answer": 4, "answer": 5}', '{"explanation": "a", "answer": null}'),
)


@pytest.mark.parametrize("said", MARKED)
def test_the_marked_answer_is_four(said: str) -> None:
    parsed = parse(f"Two and two.\n{said}")
    assert parsed is not None
    assert parsed.answer == "4"
    assert parsed.rationale.startswith("Two and two.")


@pytest.mark.parametrize("said", UNMARKED)
def test_what_marks_no_sure_answer_is_none(said: str) -> None:
    assert parse(f"Two and two.\n{said}") is None


@pytest.mark.parametrize(
    ("output", "rationale"),
    [
        ("<think>Two.</think>\n4", "Two."),
        ("Two.</think>The answer is 4.", "Two."),
        ("<think>It is 3?</think>\nTwo.\n<Answer>: 4", "Two."),
        ("<reasoning>Two.</reasoning>\n<answer>4</answer>", "Two."),
        ("<think>Question: what?\nQ: Two.</think>4", "Question: what?\nQ: Two."),
        ("<Explanation>: Two.\n<Answer>: 4", "Two."),
        ("<explanation>Two.</explanation>\n<answer>4</answer>", "Two."),
        ("Answer: 4\nExplanation: Two.", "Two."),
        ('{"reasoning": "Two.", "answer": "$4"}', "Two."),
        ('Two.\n```json\n{"answer": 4}\n```', "Two."),
        ('<think>Three.</think>{"explanation": "Two.", "answer": 4}<|im_end|>', "Two."),
        ("Two. So, the answer is 4.", "Two."),
        ("Two.\n$$\\boxed{4}$$", "Two."),
    ],
)
def test_the_rationale_is_what_goes_before(output: str, rationale: str) -> None:
    parsed = parse(output)
    assert parsed is not None
    assert (parsed.rationale, parsed.answer) == (rationale, "4")


@pytest.mark.parametrize(
    "output",
    ["<think>4</think>", "<think></think>4", "<think>a</think>4 or 5", "<think>a</think>4<think>b"],
)
def test_a_thought_alone_is_no_answer(output: str) -> None:
    assert parse(output) is None


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("The answer is St. Petersburg.", "st. petersburg"),
        ("The answer is Paris. It is in France.", "paris"),
        ("The answer is Paris because it is.", "paris"),
        ("The answer is not Paris.", None),
        ("The answer is Paris. The answer is clear.", None),
        ("So it is warm.", None),
        ("<Answer>: Paris\n\nThis is the capital.", "paris"),
        ("<Answer>: a\nb", "a\nb"),
        ("<Answer>: ...", None),
    ],
)
def test_a_text_is_what_the_sentence_says(said: str, text: str | None) -> None:
    parsed = parse_output(f"It is so. {said}", TEXT, Question(id="q", text="?"))
    assert (parsed.answer if parsed else None) == text


def parse(output: str) -> ParsedOutput | None:
    return parse_output(output, NUMBER, Question(id="q", text="?"))
