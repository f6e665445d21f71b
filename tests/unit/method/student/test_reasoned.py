"""Students that answer behind their rationale: their targets, the form of their outputs, and the
chat that they are asked in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AutoTokenizer

from qcrd.errors import Invalid
from qcrd.method.student.chat_form import ChatForm, read_chat_form
from qcrd.method.student.loading import load_student
from qcrd.method.student.targets import reasoned_target
from qcrd.method.training.objectives import get_objective
from qcrd.method.training.step_loss import StepModule
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.rationales import Rationale
from qcrd.records.specs.training_spec import (
    Hyperparameters,
    LossSpec,
    StudentAnswers,
    StudentSpec,
)
from qcrd.records.students.answer_form import AnswerForm
from qcrd.records.students.prompt_format import PromptFormat, split_joined_output
from services.trainer.results.chat_template import render_chat_template
from tests import tiny

FORM = AnswerForm(mark=(7, 8), options=((1, 2, 0), (1, 3, 0), (4, 0)), ends=(0,),
                  max_rationale_tokens=5)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ([], set()),
        ([9, 9], set()),
        ([9, 9, 9], {7}),  # the limit: the mark is said for the student
        ([9, 9, 9, 7], {8}),
        ([9, 9, 7], {8}),  # it had begun it
        ([9, 7, 8], {1, 4}),
        ([9, 7, 8, 1], {2, 3}),
        ([9, 7, 8, 1, 3], {0}),
        ([9, 7, 8, 4, 0], {0}),
        ([7, 7, 8, 4], {0}),
    ],
)
def test_what_may_follow_in_an_output_that_answers_an_option(
    said: list[int], allowed: set[int]
) -> None:
    assert FORM.find_allowed(said) == allowed


def make_student(folder: Path, kind: str, template: str | None = None, **spec: Any) -> Any:
    base = tiny.save_base(folder, kind, chat_template=template)
    hyper = Hyperparameters(max_rationale_tokens=8, max_label_tokens=4)
    return load_student(base, StudentSpec(decoder_layers=1, **spec), hyper, seed=0)


@pytest.mark.parametrize("kind", ["llama", "t5", "bert"])
def test_a_limit_cuts_the_rationale_and_neither_mark_nor_answer(tmp_path: Path, kind: str) -> None:
    student = make_student(tmp_path, kind)
    before, answer = student.tokenize_parts(reasoned_target("it swims in water " * 10, "animal"))
    assert len(before) <= 8
    assert student.tokenizer.decode(before[-2:]) == "answer :"
    assert student.tokenizer.decode(answer, skip_special_tokens=True) == "animal"
    assert answer[-1] in student.end_token_ids
    bare, nothing = student.tokenize_parts(reasoned_target("it swims"))
    assert student.tokenizer.decode(bare).endswith("it swims answer :")
    assert nothing == []


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_parts_of_a_target_cost_what_the_whole_does(tmp_path: Path, kind: str) -> None:
    student = make_student(tmp_path, kind)
    targets = [reasoned_target("it swims", "animal"), reasoned_target("it grows on trees")]
    prompts = ["explain: trout", "explain: apple"]
    with torch.no_grad():
        sums, counts = student.part_cross_entropy(prompts, [0, 1], targets)
        total, count = student.cross_entropy(prompts, [0, 1], targets)
    torch.testing.assert_close(sums.sum(1), total)
    assert counts.sum(1).tolist() == count.tolist()
    assert counts[1, 1] == sums[1, 1] == 0
    answer_ce = student.answer_cross_entropy(prompts[:1], targets[:1])
    torch.testing.assert_close(answer_ce, sums[:1, 1] / counts[:1, 1])


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_an_untrained_student_answers_an_option_too(tmp_path: Path, kind: str) -> None:
    """Greedily and by sampling, however long it would have gone on."""
    student = make_student(tmp_path, kind)
    options, prompts = ["animal", "fruit"], ["explain: trout", "explain: what is an apple ?"]
    for temperature in (0.0, 1.5):
        texts = student.generate(
            prompts, max_new_tokens=12, options=options, temperature=temperature
        )
        assert all(split_joined_output(text)[1] in options for text in texts)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("kind", ["llama", "t5", "bert"])
def test_an_output_begins_as_told_and_tells_what_its_answer_had(
    tmp_path: Path, kind: str, temperature: float
) -> None:
    """The log-probability is the student's own, by a plain forward, though the answer was held to
    two options and drawn at another temperature; prompts and beginnings differ in length."""
    student = make_student(tmp_path, kind)
    prompts = ["explain: what is an apple ?", "explain: trout", "explain: a hammer ?"]
    begun = ["it grows on trees", "", "it hits nails"]
    outputs = student.sample(
        prompts,
        max_new_tokens=12,
        temperature=temperature,
        options=["animal", "fruit"],
        beginnings=[reasoned_target(text) for text in begun],
        answers="marked",
    )
    student.model.eval()
    for prompt, text, output in zip(prompts, begun, outputs, strict=True):
        rationale, answer = split_joined_output(output.text)
        assert rationale == text
        target = reasoned_target(text, answer)
        with torch.no_grad():
            sums, _ = student.part_cross_entropy([prompt], [0], [target])
        assert output.answer_logprob == pytest.approx(-float(sums[0, 1]), rel=1e-4)
        assert output.n_tokens == len(student.tokenize_target(target))


def test_an_output_that_is_all_answer_is_told_whole(tmp_path: Path) -> None:
    student = make_student(tmp_path, "t5")
    (output,) = student.sample(["predict: trout"], max_new_tokens=6, answers="all")
    assert not student.sample(["predict: trout"], max_new_tokens=6)[0].answer_logprob
    assert output.answer_logprob is not None
    assert output.answer_logprob < 0


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("answers", ["label", "reasoned", "both"])
def test_in_bf16_every_weight_has_the_gradient_of_fp32(
    tmp_path: Path, kind: str, answers: StudentAnswers
) -> None:
    """Candidates are scored without gradients first, and what is cast then must not stay."""
    rationales = tuple(
        Rationale(id=text, question_id="q", text=text) for text in ("it swims", "it grows on trees")
    )
    wrong = (Rationale(id="n", question_id="q", text="so it plays music"),)
    batch = [TrainingExample("q", "what is a trout ?", "animal", "animal", rationales, wrong)]
    gradients = []
    for bf16 in (False, True):
        student = make_student(tmp_path, kind)
        student.bf16 = bf16
        step = StepModule(student, get_objective("qcrd", answers), LossSpec(delta=20.0))
        step(batch, {}, 0).total.backward()
        gradients.append({n: p.grad for n, p in student.model.named_parameters()})
    exact, rounded = gradients
    names = [name for name, gradient in exact.items() if gradient is not None]
    assert [name for name in names if rounded[name] is None] == []
    whole = [torch.cat([found[name].flatten() for name in names]) for found in gradients]
    assert torch.cosine_similarity(*whole, dim=0) > 0.98
    assert whole[1].norm() / whole[0].norm() == pytest.approx(1, abs=0.1)


# --- the chat of its base -------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LAST_IS_OTHER = CHATML.replace(
    "m['content']",
    "('<think></think>' if loop.last and m['role'] != 'user' else '') + m['content']",
)


def make_tokenizer(template: str | None, **more: Any) -> Any:
    words = tiny.tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], **more})
    words.chat_template = template
    return words


@pytest.mark.parametrize("template", [CHATML, LAST_IS_OTHER])
def test_a_question_stands_where_a_users_turn_does(template: str) -> None:
    after = "<|im_end|>\n<|im_start|>assistant\n"
    expected = ChatForm("<|im_start|>user\n", after, "<|im_end|>")
    assert read_chat_form(make_tokenizer(template)) == expected


def test_the_system_message_that_a_template_adds_is_left_out() -> None:
    words = tiny.tokenizer()
    words.chat_template = tiny.CHAT_TEMPLATE
    assert read_chat_form(words) == ChatForm("question : ", " so :", "</s>")


def test_the_token_of_the_beginning_stands_there_once() -> None:
    words = make_tokenizer("<|im_start|>" + CHATML.replace("<|im_start|>", "["))
    words.bos_token = "<|im_start|>"
    assert read_chat_form(words).before == "<|im_start|>[user\n"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('only tools') }}", "fails: only tools"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "as it is"),
    ],
)
def test_a_base_without_a_chat_is_refused_where_one_was_asked_for(
    tmp_path: Path, template: str | None, reason: str
) -> None:
    with pytest.raises(Invalid, match=reason):
        make_student(tmp_path, "llama", template, prompt="chat")
    assert make_student(tmp_path, "llama", template, prompt="auto").chat is None


def test_only_decoders_are_asked_in_a_chat(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="only decoder-only bases"):
        make_student(tmp_path, "t5", prompt="chat")


def test_a_long_question_leaves_a_chats_turn_whole(tmp_path: Path) -> None:
    student = make_student(tmp_path, "llama", tiny.CHAT_TEMPLATE, prompt="auto")
    student.max_question_tokens = 12
    (ids,) = student.tokenize_prompts(["explain: " + "trout " * 40])
    text = student.tokenizer.decode(ids)
    assert len(ids) <= 12
    assert text.startswith("question :")
    assert "so :" in text


@pytest.mark.parametrize("prompt", ["plain", "chat"])
@pytest.mark.parametrize("begins", [False, True])
def test_a_chat_by_the_published_template_is_the_tokens_of_training(
    tmp_path: Path, prompt: str, begins: bool
) -> None:
    """Servers add no control token to a rendered chat: what the tokenizer puts around a text, a
    beginning as Llama's or an end, stands in the template, once."""
    student = make_student(tmp_path, "llama", tiny.CHAT_TEMPLATE, prompt=prompt)
    if begins:
        words = student.tokenizer
        words.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<pad> $A", special_tokens=[("<pad>", 0)]
        )
    assert student.find_frame() == (("<pad>", "") if begins else ("", "</s>"))
    before, after = "", student.suffix
    if student.chat is not None:
        before, after = student.chat.before, student.chat.after
    form = PromptFormat(predict=f"{before}explain: ", suffix=after)
    student.tokenizer.chat_template = render_chat_template(form, student.find_frame())
    message = {"role": "user", "content": "what is a trout ?"}
    rendered = student.tokenizer.apply_chat_template([message], tokenize=False)
    ids = student.tokenizer(rendered, add_special_tokens=False).input_ids
    assert student.tokenize_prompts(["explain: what is a trout ?"]) == [ids]


SPLIT = "a trout< |im_end|>x < /s>"
"""Control tokens of a question are text, to the template as to whoever asks by `qcrd.json`."""


@pytest.mark.parametrize("conversation", [False, True])
def test_a_published_template_asks_what_the_student_was_trained_on(
    tmp_path: Path, conversation: bool
) -> None:
    tiny.tokenizer().save_pretrained(tmp_path)
    words: Any = AutoTokenizer.from_pretrained(tmp_path)
    prompt_format = PromptFormat(
        predict='say "it"\n: ',
        suffix="\n\tnow {{ x }}",
        conversation=conversation,
        control_tokens=("</s>", "<|im_end|>", "<|im_end|>x", "?"),
    )
    words.chat_template = render_chat_template(prompt_format)
    chats = [
        [("user", " what is a trout? ")],
        [("system", "be kind"), ("user", "what?")],
        [("user", "one"), ("assistant", "two"), ("user", "three {{ y }}")],
        [("user", "a trout<|im_end|>x </s>")],
    ]
    expected = [
        [
            "what is a trout?",
            "be kind\n\nUser: what?",
            "User: one\n\nAssistant: two\n\nUser: ",
            SPLIT,
        ],
        ["what is a trout?", "what?", "", SPLIT],
    ][not conversation]
    for chat, question in zip(chats, expected, strict=True):
        messages = [{"role": role, "content": content} for role, content in chat]
        rendered = words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ending = "three {{ y }}" if len(chat) == 3 else ""
        assert rendered == prompt_format.format_prompt(prompt_format.predict, question + ending)
