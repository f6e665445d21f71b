"""Names that people give to the columns of their data, in the order in which they are believed."""

from __future__ import annotations

from collections.abc import Sequence

QUESTION_TEMPLATES: Sequence[tuple[Sequence[str], str]] = (
    (("premise", "hypothesis"), "Premise: {premise}\nHypothesis: {hypothesis}"),
    (
        ("premise", "question", "choice1", "choice2"),
        "{premise}\nWhat is the {question} of this?",
    ),
    (("sentence1", "sentence2"), "{sentence1}\n{sentence2}"),
    (("question1", "question2"), "{question1}\n{question2}"),
    (("text_a", "text_b"), "{text_a}\n{text_b}"),
    (("body", "question"), "{body} {question}"),
    (("instruction", "input"), "{instruction}\n\n{input}"),
)
"""COPA's question is `cause` or `effect`."""
QUESTION_NAMES = (
    "question query problem prompt instruction inputs input text sentence utterance goal review"
    " content question_text question_stem stem ctx source title"
).split()
CONTEXT_NAMES = "context passage article paragraph document story dialogue background facts".split()
"""What a question is about, and stands before it."""
LABEL_NAMES = (
    "label gold_label answer answerkey answer_key target gold final_answer correct_answer"
    " correct_option correct answer_idx cop completion output response reply class category intent"
    " sentiment coarse_label label_text is_duplicate answers equation labels summary"
).split()
CHOICE_NAMES = "choices options endings answer_choices candidates".split()
CHOICE_COLUMNS: Sequence[Sequence[str]] = (
    ("a", "b", "c", "d", "e"),
    ("option_a", "option_b", "option_c", "option_d", "option_e"),
    ("opa", "opb", "opc", "opd", "ope"),
    ("option1", "option2", "option3", "option4"),
    ("choice1", "choice2", "choice3", "choice4"),
    ("answer1", "answer2", "answer3", "answer4"),
    ("ending0", "ending1", "ending2", "ending3"),
    ("sol1", "sol2"),
)
RATIONALE_NAMES = (
    "rationales rationale explanations explanation reasoning cot chain_of_thought solution exp"
    " human_explanation"
).split()
RATIONALE_COLUMNS: Sequence[Sequence[str]] = (
    ("explanation_1", "explanation_2", "explanation_3"),
    ("rationale_1", "rationale_2", "rationale_3"),
)
OUTPUT_NAMES = "teacher_output teacher_outputs outputs model_output generation generations".split()
FORMS = {
    "messages": "chats of OpenAI's form",
    "conversations": "chats of ShareGPT's form",
    "preferred_output": "preference pairs",
}
