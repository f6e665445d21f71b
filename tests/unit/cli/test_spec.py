"""A spec's YAML: words that YAML reads as something else, and keys that stand twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcrd.cli.spec import read_job_spec, read_study_spec
from qcrd.errors import Invalid

JOB = """model: tiny
training_file: file-000000000000000000000000
"""


def refusal(folder: Path, text: str, *, study: bool = False) -> Invalid:
    spec = folder / "spec.yaml"
    spec.write_text(text, encoding="utf-8")
    with pytest.raises(Invalid) as caught:
        (read_study_spec if study else read_job_spec)(spec, None)
    return caught.value


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("[yes, no]", "line 3: YAML reads yes as true: write 'yes' in quotes"),
        ("['yes', no]", "line 3: YAML reads no as false: write 'no' in quotes"),
        ("[a, 7]", "line 3: YAML reads 7 as a number: write '7' in quotes"),
        ("[1.50, a]", "line 3: YAML reads 1.50 as a number: write '1.50' in quotes"),
        ("[2024-01-05, a]", "YAML reads 2024-01-05 as a date: write '2024-01-05' in quotes"),
        ("[null, a]", "YAML reads null as nothing: write 'null' in quotes"),
    ],
)
def test_words_that_yaml_reads_as_something_else_are_named(
    tmp_path: Path, labels: str, told: str
) -> None:
    method = f"method: {{type: qcrd, qcrd: {{task: {{answer: label, labels: {labels}}}}}}}\n"
    error = refusal(tmp_path, JOB + method)
    assert told in error.message
    assert error.param is not None
    assert error.param.startswith("method.qcrd.task.labels.")


def test_so_are_values_and_keys_of_metadata_and_those_of_a_study(tmp_path: Path) -> None:
    error = refusal(tmp_path, JOB + "metadata:\n  run: 7\n")
    assert error.message == "`metadata.run`: line 4: YAML reads 7 as a number: write '7' in quotes"
    assert "YAML reads on as true" in refusal(tmp_path, JOB + "metadata: {on: a}\n").message
    job = "".join(f"  {line}\n" for line in JOB.splitlines())
    study = f"job:\n{job}  suffix: 2024-01-05\nmethods: [qcrd, dss]\nseeds: [0]\n"
    assert "YAML reads 2024-01-05 as a date" in refusal(tmp_path, study, study=True).message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (JOB + "seed: 1\nsuffix: a\nseed: 2\n", "line 5: key `seed` is there twice"),
        (JOB + "budget: {cost: 1, cost: 2}\n", "line 3: key `cost` is there twice"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_line(
    tmp_path: Path, text: str, told: str
) -> None:
    error = refusal(tmp_path, text)
    assert told in error.message
    assert "first in line 3" in error.message
    assert error.code == "duplicate_key"


def test_a_study_is_no_job() -> None:
    with pytest.raises(Invalid, match="holds a study and no job: run it with `qcrd study "):
        read_job_spec(Path("examples/study.yaml"), None)


def test_what_a_row_of_a_study_imports_is_uploaded_too(tmp_path: Path) -> None:
    job = "".join(f"  {line}\n" for line in JOB.splitlines())
    row = "{name: greedy, method: dss, settings: {rationales: {import: greedy.jsonl}}}"
    study = f"job:\n{job}methods: [qcrd, {row}]\nseeds: [0]\nbaseline: qcrd\n"
    missing = refusal(tmp_path, study, study=True)
    assert missing.param == "methods.1.settings.rationales.import"
    outputs = tmp_path / "greedy.jsonl"
    outputs.write_text("{}\n")
    draft = read_study_spec(tmp_path / "spec.yaml", None)
    assert [each.path for each in draft.files] == [outputs]
    body = draft.with_file_ids({outputs: "file-1"})
    assert body["methods"][0] == "qcrd"
    assert body["methods"][1]["settings"] == {"rationales": {"import": "file-1"}}
    assert draft.body["methods"][1]["settings"]["rationales"]["import"] == "greedy.jsonl"
