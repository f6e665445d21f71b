"""Laws of readings: wrapping changes none, each names its span, and two values are none."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from qcrd.method.answers import canonical, parse_output
from qcrd.records.rationales import Question
from qcrd.records.specs.task import AnswerKind, TaskSpec

NUMBER = TaskSpec(answer=AnswerKind.NUMBER)
LABEL = TaskSpec(answer=AnswerKind.LABEL, labels=("animal", "fruit", "not spam", "C++"))
Q = Question(id="q", text="?")

numbers = st.one_of(
    st.integers(-10_000, 10_000).map(str),
    st.integers(0, 10**9).map("{:,}".format),
    st.tuples(st.integers(0, 999), st.integers(0, 99)).map(lambda t: f"{t[0]}.{t[1]:02}"),
    st.tuples(st.integers(1, 20), st.integers(21, 40)).map(lambda t: f"{t[0]}/{t[1]}"),
)
wrappings = st.sampled_from(
    ["{}", " {} ", "**{}**", "`{}`", "“{}”", "{}.", "**{}**.", "\\boxed{{{}}}", "\u200b{}", "({})"]
)
joints = st.sampled_from([" or ", " and ", ", ", " to ", "–", " / ", "; ", " vs ", " oder ", "或"])


@given(numbers, wrappings)
def test_wrapping_changes_no_number(number: str, wrapping: str) -> None:
    said = canonical(wrapping.format(number), NUMBER, Q)
    assert said is not None
    assert Fraction(said) == Fraction(number.replace(",", ""))


@given(st.sampled_from(LABEL.labels), wrappings)
def test_wrapping_changes_no_label(label: str, wrapping: str) -> None:
    text = wrapping.format(label).replace("boxed{", "boxed{\\text{").replace("}", "}}", 1)
    text = text if "boxed" in wrapping else wrapping.format(label)
    assert canonical(text, LABEL, Q) == label


@given(numbers, numbers, joints)
def test_two_numbers_are_none(first: str, second: str, joint: str) -> None:
    """But for one value that is said twice."""
    read = canonical(f"{first}{joint}{second}", NUMBER, Q)
    if Fraction(first.replace(",", "")) == Fraction(second.replace(",", "")):
        return
    if joint == " / " and read is not None:  # that is a fraction
        left, right = (Fraction(one.replace(",", "")) for one in (first, second))
        assert Fraction(read) * right == left
    else:
        assert read is None


@given(st.lists(st.sampled_from(LABEL.labels), min_size=2, max_size=3, unique=True), joints)
def test_two_labels_are_none(labels: list[str], joint: str) -> None:
    assert canonical(joint.join(labels), LABEL, Q) is None


@given(
    st.text(max_size=60),
    st.sampled_from(["\n<Answer>: {}", "\n#### {}", " The answer is {}.", "\n\\boxed{{{}}}"]),
    numbers,
    st.sampled_from(["", " apples", "\n\nThis is it.", "<|im_end|>"]),
)
def test_a_reading_is_a_function_of_its_span(
    before: str, mark: str, number: str, after: str
) -> None:
    text = f"a{before}{mark.format(number)}{after}"
    parsed = parse_output(text, NUMBER, Q)
    if parsed is None:
        return
    assert parsed.span is not None
    start, end = parsed.span
    assert 0 <= start <= end <= len(text)
    assert number in text[start:end]
    assert Fraction(parsed.answer) == Fraction(number.replace(",", ""))


@given(st.text(max_size=200), st.sampled_from(list(AnswerKind)))
def test_what_is_read_reads_as_itself(text: str, kind: AnswerKind) -> None:
    task = TaskSpec(answer=kind, labels=("yes", "no"))
    asked = Question(id="q", text="?", choices=("a", "b"))
    read = canonical(text, task, asked)
    if read is not None and kind is not AnswerKind.TEXT:
        assert canonical(read, task, asked) == read
