"""The report as a page."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from qcrd.cli.output.html_report import render_html
from qcrd.cli.output.report import show_next_steps, show_report
from tests.unit.trainer.test_report import made

VOID = {"meta"}


class Checker(HTMLParser):
    """Every element is closed in its order; what it shows and where it leads is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """`<line/>` opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def prediction(place: int, **changes: Any) -> dict[str, Any]:
    usual = {
        "question_id": f"q{place}",
        "question": f"Question <{place}>?",
        "text": "so 3 & no more",
        "answer": "3",
        "gold": "3",
        "right": True,
        "confidence": 0.5,
        "teacher_answer": "3",
        "teacher_right": True,
    }
    return usual | changes


def check(page: str) -> str:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.links == []
    assert not re.search(r"https?://|<script|@import|url\(", page)
    return " ".join(checker.texts)


def test_the_page_says_what_to_do_first_and_needs_no_other_file() -> None:
    report = made()
    wrong = [prediction(place, right=False, answer=None) for place in range(60)]
    only_it = [prediction(100, right=False, teacher_right=False)]
    text = check(render_html(report.model_dump(mode="json"), [*wrong, *only_it, prediction(200)]))
    assert report.advice is not None
    assert text.index(report.advice) < text.index("Accuracy on test questions")
    assert "Its teacher is right and the student is not: 60" in text
    assert "The first 50; all: qcrd jobs predictions" in text
    assert "Other wrong answers: 1" in text
    assert "Question <200>?" in text
    assert "so 3 & no more" in text
    assert "0.900 [0.596, 0.982] of 10" in text


def test_the_page_has_what_the_terminal_has() -> None:
    report = made().model_dump(mode="json") | {"judge": {"auc": 0.75, "positives": 3.0}}
    report["judge"] |= {"negatives": 2.0}
    text = check(render_html(report, []))
    console = Console(width=500, record=True, file=io.StringIO())
    show_report(console, report)
    show_next_steps(console, report)
    words = set(re.findall(r"[\w.-]{2,}", console.export_text()))
    assert {"unparseable", "0.75", "positives", "download", report["model"]["id"]} <= words
    headings = {"Test", "Model", "Rationales", "Labels", "lowest", "share", "mostly", "taken"}
    assert words - set(re.findall(r"[\w.-]{2,}", text)) <= headings


@pytest.mark.parametrize("tested", [[], None])
def test_a_report_without_a_test_or_of_before_has_a_page(tested: list[str] | None) -> None:
    report = (made() if tested is None else made(tested)).model_dump(mode="json")
    if tested is None:
        report = {name: value for name, value in report.items() if name != "advice"}
    assert "Accuracy on" in check(render_html(report, []))
