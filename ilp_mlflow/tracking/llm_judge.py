"""An MLflow judge rules which of two answers is wrong, words a question otherwise, or writes what it is told to."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

from ilp_mlflow.core.errors import PluginError, first_line

Ruling = Literal["first", "second", "both", "neither"]
"""Which answer is wrong."""
INSTRUCTIONS = """\
Two training examples answer what may be the same question.
The question of the first, and that of the second: {{ inputs }}
Their answers, first and second: {{ outputs }}
Which answer is wrong? Say "first", "second", "both", or "neither" when each is right for its question.\
"""
REWORD = """\
A prompt for a language model: {{ inputs }}
Write it in other words, in as many ways as told: {{ outputs }}
Each must ask for exactly the same thing, name what it is about as the prompt does, keep its form (a line that the model is to
complete stays one) and not answer it.\
"""
WRITE = """\
Write the texts that are asked for, each as one entry of the list and with nothing else in it: {{ inputs }}\
"""


def judge_contradiction(model: str, questions: tuple[str, str], answers: tuple[str, str]) -> Ruling:
    """Which of two answers is wrong by the judge `model`, an MLflow judge model URI such as `openai:/gpt-4.1-mini`.

    Raises PluginError when the judge cannot be reached or rules otherwise than asked.
    """
    asked = {"first": questions[0], "second": questions[1]}
    found = _asked(
        "contradiction",
        INSTRUCTIONS,
        model,
        Ruling,
        asked,
        {"first": answers[0], "second": answers[1]},
    )
    for known in get_args(Ruling):
        if found == known:
            return cast(Ruling, known)
    raise PluginError(f"judge '{model}' gave no ruling: {first_line(found)}")


def reword_question(model: str, question: str) -> list[str]:
    """Other wordings of a question, by the judge `model`, none that is empty or the question itself.

    Raises PluginError when the judge cannot be reached or gives something else.
    """
    found = _asked("wordings", REWORD, model, list[str], {"question": question}, {"number": "2"})
    if not isinstance(found, list):
        raise PluginError(f"judge '{model}' gave no wordings: {first_line(found)}")
    return [
        text
        for text in dict.fromkeys(str(text).strip() for text in found)
        if text not in ("", question.strip())
    ]


def write_texts(model: str, instruction: str) -> list[str]:
    """The distinct texts that the model `model`, an MLflow judge model URI, writes when told `instruction`, none of them empty.

    Raises PluginError when the model cannot be reached or gives something else.
    """
    found = _asked("texts", WRITE, model, list[str], {"instruction": instruction}, None)
    if not isinstance(found, list):
        raise PluginError(f"judge '{model}' wrote no texts: {first_line(found)}")
    return [text for text in dict.fromkeys(str(text).strip() for text in found) if text]


def _asked(
    name: str,
    instructions: str,
    model: str,
    kind: Any,
    inputs: dict[str, str],
    outputs: dict[str, str] | None,
) -> Any:
    """What a judge says: a value of `kind` if it does as it is told."""
    from mlflow.genai.judges import make_judge

    try:
        found = make_judge(name, instructions, model=model, feedback_value_type=kind)(
            inputs=inputs, outputs=outputs
        )
    except Exception as error:  # providers fail in ways of their own
        raise PluginError(f"judge '{model}' cannot be asked: {first_line(error)}") from None
    if found.value is None:
        raise PluginError(f"judge '{model}' gave no answer: {first_line(found.error)}")
    return found.value
