"""GGUF files through llama.cpp: they answer as their student, or there are none."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import gguf
import pytest

from qcrd.errors import Invalid
from qcrd.exports import agreement
from qcrd.exports.__main__ import export_student
from qcrd.exports.formats import ExportFormat
from qcrd.exports.original import GreedyOutput, OriginalStudent
from tests import exported, tiny
from tests.unit.cli.commands.test_run import qcrd

F16, Q8_0 = ExportFormat.GGUF_F16, ExportFormat.GGUF_Q8_0


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.teach(exported.save_student(tmp_path_factory.mktemp("taught") / "student"))


def export(folder: Path, kind: ExportFormat = F16, *rows: agreement.LabelledQuestion) -> str:
    outcome = export_student(kind, folder, folder.parent / "out", list(rows), None)
    assert outcome.files == ("Modelfile", f"student-{kind.removeprefix('gguf-')}.gguf")
    return outcome.checked


@pytest.mark.parametrize("kind", list(exported.CONFIGS))
def test_in_16_bits_every_shape_says_the_same_tokens(tmp_path: Path, kind: str) -> None:
    """128 tokens of four outputs. Grouped heads, tied and untied heads, biases, norms of queries,
    scaled and missing rotary positions, four ways to split a text: whatever were written wrongly
    would change the tokens."""
    checked = export(exported.save_student(tmp_path / "student", kind))
    assert checked == (
        "llama.cpp gives the same greedy tokens as transformers at 128 of 128 places"
    )


def test_a_vocabulary_of_sentencepiece_is_read_as_it_was(tmp_path: Path) -> None:
    tokenizer = exported.sentencepiece_tokenizer()
    checked = export(exported.save_student(tmp_path / "student", tokenizer=tokenizer))
    assert "at 128 of 128 places" in checked


def test_in_8_bits_a_taught_student_gives_the_same_labels(taught: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(taught, tmp_path / "student"))
    rows = tmp_path / "test.jsonl"
    rows.write_text(
        "\n".join(
            json.dumps({"question": exported.question(thing), "label": said.split(": ")[1]})
            for thing, said in exported.REASONS.items()
        )
    )
    checked = export(folder, Q8_0, *agreement.read_questions(rows))
    assert checked.endswith("the same answer for 4 of 4 questions, 4 of 4 right (before: 4)")
    reader = gguf.GGUFReader(tmp_path / "out" / "student-q8_0.gguf")
    kinds = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] is gguf.GGMLQuantizationType.Q8_0
    assert kinds["blk.0.attn_norm.weight"] is gguf.GGMLQuantizationType.F32


def test_the_command_writes_a_folder_and_says_how_it_was_checked(tmp_path: Path) -> None:
    folder = exported.save_student(tmp_path / "student")
    asked = ("models", "export", folder, "--format", "gguf-f16", "--to", tmp_path / "out")
    done = qcrd(*asked)
    assert done.exit_code == 0, done.output
    assert "the same greedy tokens" in done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "Modelfile", "student-f16.gguf"
    }  # fmt: skip
    again = qcrd(*asked)
    assert (again.exit_code, "exists: name another folder" in again.stderr) == (2, True)


def test_what_llama_cpp_reads_in_another_way_is_not_given(tmp_path: Path) -> None:
    """A token that takes the space before it along, which no GGUF file can say."""
    tokenizer = exported.byte_tokenizer(lstrip=True)
    folder = exported.save_student(tmp_path / "student", tokenizer=tokenizer)
    with pytest.raises(Invalid, match=r"reads .* as other tokens .*nothing was written"):
        export(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_without_llama_cpp_it_says_that_it_is_not_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)  # to the import system, not installed
    checked = export(exported.save_student(tmp_path / "student"))
    assert checked.startswith("not verified: llama.cpp is not installed here")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"hidden_act": "gelu"}, "its activation is gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "'yarn'"),
        ({"eos_token_id": [2, 3, 4, 5]}, "with 4 tokens"),
    ],
)
def test_what_gguf_cannot_hold_is_refused_by_name(
    tmp_path: Path, settings: dict[str, object], reason: str
) -> None:
    folder = exported.save_student(tmp_path / "student", **settings)
    with pytest.raises(Invalid, match=reason):
        export(folder)


def test_encoder_decoders_and_other_vocabularies_are_refused_by_name(tmp_path: Path) -> None:
    for kind, reason in (("t5", "an encoder-decoder .*--format onnx"), ("llama", "WordLevel")):
        folder = tiny.save_base(tmp_path / kind, kind)
        (folder / "qcrd.json").write_text(exported.FORMAT.model_dump_json())
        with pytest.raises(Invalid, match=reason):
            export(folder)


def test_outputs_are_compared_to_their_end_also_behind_a_difference() -> None:
    expected = GreedyOutput((5, 6, 7, 2), (1.0, 0.4, 2.0, 3.0))
    follow = {(1,): (5, 8, 9), (1, 5, 6): (7, 2)}
    found = agreement.compare_tokens((1,), expected, lambda prompt, said: follow[(*prompt, *said)])
    assert found == agreement.TokenAgreement(4, ((1, 0.4),))
    # Too short, then wrong, then at its end.
    follow = {(1,): (5,), (1, 5, 6): (9,), (1, 5, 6, 7): (2,)}
    found = agreement.compare_tokens((1,), expected, lambda prompt, said: follow[(*prompt, *said)])
    assert found.differences == ((1, 0.4), (2, 2.0))


def test_labels_that_change_are_refused(taught: Path) -> None:
    """An export that says something else: here one made of another student's outputs."""
    original = OriginalStudent(taught)
    rows = [
        agreement.LabelledQuestion(
            agreement.Question(id=thing, text=exported.question(thing)), said.split(": ")[1]
        )
        for thing, said in exported.REASONS.items()
    ]
    hammer = original.generate(original.tokenize(exported.question("hammer"))).tokens
    with pytest.raises(Invalid, match=r"the same answer for 2 of 4 questions, 2 of 4 right"):
        agreement.check_labels(original, rows, lambda prompt, said: hammer)
