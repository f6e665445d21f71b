"""Labels that a tokenizer cannot say, said before training; rationale sets of another file."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from qcrd.errors import Invalid
from qcrd.method.student.base import Student
from qcrd.method.student.causal import CausalStudent
from qcrd.method.student.seq2seq import Seq2SeqStudent
from qcrd.records.rationales import (
    Question,
    RationaleCounts,
    RationaleItem,
    RationaleManifest,
    Vote,
)
from qcrd.records.specs.spec import JobSpec, MethodSpec
from qcrd.records.specs.task import AnswerKind, TaskSpec
from qcrd.records.specs.training_spec import Hyperparameters
from qcrd.runtime import keys
from qcrd.runtime.storage.json_lines import write_lines
from qcrd.runtime.storage.store import MemoryStore, write_record
from services.trainer.data import training_dataset
from services.trainer.data.preflight import check_labels
from tests import tiny

ASKED = Question(id="q", text="?")
LIMITS = {"max_question_tokens": 32, "max_target_tokens": 16}
KINDS = TaskSpec(answer=AnswerKind.LABEL, labels=("fruit", "Tool", "T-Shirt", "zebra", "<new>"))
NUMBERS = TaskSpec(answer=AnswerKind.NUMBER)


def lowercasing() -> PreTrainedTokenizerFast:
    """Like MiniLM's: word pieces of lower case, split at punctuation, [CLS] … [SEP], no EOS."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = ["tool", "t", "shirt", "-", "(", ")", "/", ".", "84", "2", "0", "##0", "fruit"]
    vocabulary = {piece: index for index, piece in enumerate([*special, *pieces])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def byte_level() -> PreTrainedTokenizerFast:
    """Like GPT-2's: every byte is a token, and the end of text is also the unknown token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate(["<|endoftext|>", *letters])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, unk_token=end)


def words() -> Student:
    return Seq2SeqStudent(tiny.t5(), tiny.tokenizer(), **LIMITS)


def uncased() -> Student:
    model = tiny.t5()
    model.generation_config.decoder_start_token_id = 2
    return Seq2SeqStudent(model, lowercasing(), **LIMITS)


def generative() -> Student:
    return CausalStudent(tiny.llama(), byte_level(), **LIMITS)


def spec(task: TaskSpec, room: int = 12) -> JobSpec:
    hyper = Hyperparameters(max_label_tokens=room)
    settings = MethodSpec(task=task, hyperparameters=hyper)
    return JobSpec(model="tiny", training_file="file-a", settings=settings)


@pytest.mark.parametrize(
    ("student", "label", "task"),
    [
        (words(), "fruit", KINDS),
        # read back in lower case, with spaces around the hyphen
        (uncased(), "Tool", KINDS),
        (uncased(), "T-Shirt", KINDS),
        # read back as ( 84. 0 / 2. 0 ) or with the points apart: the value is 42 all the same
        (uncased(), "( 84.0 / 2.0 )", NUMBERS),
        # its end is its unknown token, which is no part of the label
        (generative(), "T-Shirt", KINDS),
        (generative(), "84 / 2", NUMBERS),
    ],
)
def test_labels_that_can_be_said_pass(student: Student, label: str, task: TaskSpec) -> None:
    check_labels(student, [(label, ASKED)] * 2, spec(task, room=16))


@pytest.mark.parametrize(
    ("student", "label"), [(words(), "zebra"), (uncased(), "zebra"), (uncased(), "<new>")]
)
def test_unknown_words_are_refused_by_label_and_tokenizer(student: Student, label: str) -> None:
    with pytest.raises(Invalid, match="unknown to it") as caught:
        check_labels(student, [("fruit", ASKED), (label, ASKED)], spec(KINDS))
    assert caught.value.param == "training_file"
    assert caught.value.code == "unsayable_label"
    assert repr(label) in caught.value.message
    assert f"{len(student.tokenizer)} tokens" in caught.value.message


def test_a_label_that_reads_back_as_another_answer_is_refused() -> None:
    """A tokenizer that writes 84 as 2: the value would be 1, not 42."""
    tokenizer = lowercasing()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("84", "2")
    student = uncased()
    student.tokenizer = tokenizer
    with pytest.raises(Invalid, match=r"'84 / 2' .* reads back as '2 / 2'") as caught:
        check_labels(student, [("84 / 2", ASKED)], spec(NUMBERS))
    assert caught.value.param == "training_file"


def test_a_label_longer_than_its_room_names_the_length_needed() -> None:
    """( 84 . 0 / 2 . 0 ) are 9 tokens of word pieces, and one for the end."""
    labels = [("( 84.0 / 2.0 )", ASKED)]
    check_labels(uncased(), labels, spec(NUMBERS, room=9))
    with pytest.raises(Invalid, match=r"takes 9 tokens .* at least 10") as caught:
        check_labels(uncased(), labels, spec(NUMBERS, room=8))
    assert caught.value.param == "method.qcrd.hyperparameters.max_label_tokens"
    assert "is 8" in caught.value.message


def test_a_choice_is_read_back_among_its_own_options() -> None:
    task = TaskSpec(answer=AnswerKind.CHOICE)
    asked = [Question(id=o, text="?", choices=("fruit", o)) for o in ("tool", "animal")]
    check_labels(words(), [("tool", asked[0]), ("fruit", asked[1])], spec(task))
    strange = Question(id="s", text="?", choices=("fruit", "zebra"))
    with pytest.raises(Invalid, match="zebra"):
        check_labels(words(), [("fruit", strange), ("zebra", strange)], spec(task))


# --- the rationale set's own file -----------------------------------------------------------------


def stored_set(store: MemoryStore, training_file: str | None) -> str:
    set_id = keys.new_id("set")
    shard = keys.rationale_shard_key(set_id, 0)
    items = [
        RationaleItem(
            question=Question(id=str(i), text=f"{i}?", label="fruit"),
            label="fruit",
            vote=Vote(answer=None, margin=0, tie=False, counts={}),
            gold="fruit",
        )
        for i in range(4)
    ]
    write_lines(store, shard, items)
    names = ("questions", "outputs", "parsed", "unparseable", "majority_right")
    rest = ("majority_wrong", "ties", "positives", "negatives")
    counts = RationaleCounts.model_validate(dict.fromkeys((*names, *rest), 0))
    manifest = RationaleManifest(
        id=set_id, shards=(shard,), counts=counts, created_at=0, training_file=training_file
    )
    write_record(store, keys.rationale_manifest_key(set_id), manifest)
    return set_id


@pytest.mark.parametrize("kept", ["file-a", None])
def test_a_set_of_the_jobs_own_file_is_read(kept: str | None) -> None:
    store = MemoryStore()
    known = training_dataset.load_dataset(store, stored_set(store, kept), spec(KINDS))
    assert [asked.id for _, asked in known.labels] == [lesson.id for lesson in known.examples]
    assert {label for label, _ in known.labels} == {"fruit"}


def test_a_set_of_another_file_is_refused() -> None:
    store = MemoryStore()
    with pytest.raises(Invalid, match="file-b, not for file-a") as caught:
        training_dataset.load_dataset(store, stored_set(store, "file-b"), spec(KINDS))
    assert caught.value.param == "training_file"
    assert caught.value.code == "other_training_file"
