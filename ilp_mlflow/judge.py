"""An MLflow judge rules which of two answers to one question is wrong."""

from __future__ import annotations

from typing import Literal, cast, get_args

from ilp_mlflow.errors import PluginError, first_line

Ruling = Literal["first", "second", "both", "neither"]
"""Which answer is wrong."""
INSTRUCTIONS = """\
Two training examples answer what may be the same question.
The question of the first, and that of the second: {{ inputs }}
Their answers, first and second: {{ outputs }}
Which answer is wrong? Say "first", "second", "both", or "neither" when each is right for its question.\
"""


def ruling(model: str, questions: tuple[str, str], answers: tuple[str, str]) -> Ruling:
    """Which of two answers is wrong by the judge `model`, an MLflow judge model URI such as `openai:/gpt-4.1-mini`.

    Raises PluginError when the judge cannot be reached or rules otherwise than asked.
    """
    from mlflow.genai.judges import make_judge

    try:
        judge = make_judge("contradiction", INSTRUCTIONS, model=model, feedback_value_type=Ruling)
        found = judge(inputs={"first": questions[0], "second": questions[1]}, outputs={"first": answers[0], "second": answers[1]})
    except Exception as error:  # providers fail in ways of their own
        raise PluginError(f"judge '{model}' cannot be asked: {first_line(error)}") from None
    for known in get_args(Ruling):
        if found.value == known:
            return cast(Ruling, known)
    raise PluginError(f"judge '{model}' gave no ruling: {first_line(found.error or found.value)}")
