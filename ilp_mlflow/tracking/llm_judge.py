"""An MLflow judge: which of two answers is wrong, other wordings of a question, texts to order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast, get_args

from ilp_mlflow.core.errors import PluginError, first_line

Ruling = Literal["first", "second", "both", "neither"]
"""Which answer is wrong."""
CONTRADICTION = """\
Two training examples answer what may be the same question.
The question of the first, and that of the second: {{ inputs }}
Their answers, first and second: {{ outputs }}
Which answer is wrong? Say "first", "second", "both", or "neither" when each is right \
for its question.\
"""
REWORD = """\
A prompt for a language model: {{ inputs }}
Write it in other words, in as many ways as told: {{ outputs }}
Each must ask for exactly the same thing, name what it is about as the prompt does, keep its form \
(a line that the model is to
complete stays one) and not answer it.\
"""
WRITE = """\
Write the texts that are asked for, each as one entry of the list and with nothing else \
in it: {{ inputs }}\
"""
N_WORDINGS = "2"
"""Wordings that a judge is asked for."""


def judge_contradiction(model: str, questions: tuple[str, str], answers: tuple[str, str]) -> Ruling:
    """Which of two answers to two questions is wrong.

    `model` is an MLflow judge model URI such as `openai:/gpt-4.1-mini`. Raises PluginError when the
    judge cannot be reached or rules otherwise than asked.
    """
    ruling = _ask(
        "contradiction",
        CONTRADICTION,
        model,
        Ruling,
        inputs={"first": questions[0], "second": questions[1]},
        outputs={"first": answers[0], "second": answers[1]},
    )
    if ruling not in get_args(Ruling):
        raise PluginError(f"judge '{model}' gave no ruling: {first_line(ruling)}")
    return cast(Ruling, ruling)


def reword_question(model: str, question: str) -> list[str]:
    """Other wordings of a question, distinct, none of them empty or the question itself.

    `model` is as above. Raises PluginError when the judge cannot be reached or gives something
    else.
    """
    wordings = _ask(
        "wordings",
        REWORD,
        model,
        list[str],
        inputs={"question": question},
        outputs={"number": N_WORDINGS},
    )
    if not isinstance(wordings, list):
        raise PluginError(f"judge '{model}' gave no wordings: {first_line(wordings)}")
    return [wording for wording in _distinct_texts(wordings) if wording != question.strip()]


def write_texts(model: str, instruction: str) -> list[str]:
    """The distinct texts that a model writes by an instruction, none of them empty.

    `model` is as above. Raises PluginError when it cannot be reached or gives something else.
    """
    texts = _ask("texts", WRITE, model, list[str], inputs={"instruction": instruction})
    if not isinstance(texts, list):
        raise PluginError(f"judge '{model}' wrote no texts: {first_line(texts)}")
    return _distinct_texts(texts)


def _distinct_texts(texts: Iterable[Any]) -> list[str]:
    """Texts without white space around, each once, in order."""
    stripped = dict.fromkeys(str(text).strip() for text in texts)
    return [text for text in stripped if text]


def _ask(
    name: str,
    instructions: str,
    model: str,
    kind: Any,
    inputs: dict[str, str],
    outputs: dict[str, str] | None = None,
) -> Any:
    """What a judge answers: a value of `kind`, if it does as it is told."""
    from mlflow.genai.judges import make_judge

    try:
        judge = make_judge(name, instructions, model=model, feedback_value_type=kind)
        feedback = judge(inputs=inputs, outputs=outputs)
    # providers fail in ways of their own
    except Exception as error:
        raise PluginError(f"judge '{model}' cannot be asked: {first_line(error)}") from None
    if feedback.value is None:
        raise PluginError(f"judge '{model}' gave no answer: {first_line(feedback.error)}")
    return feedback.value
