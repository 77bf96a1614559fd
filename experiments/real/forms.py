"""Does a base answer better behind solved questions as text, or as turns of a conversation?

    python experiments/real/forms.py MODEL [--seed 0] [--kinds capital,opposite,symbol]

Of each kind of the real lab's easy facts, ROWS are asked in three sets of solved questions of the
kind, greedily. Printed is how many answers are right in each form, and without any examples. The
model needs a chat template.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

from ilp_mlflow.core.texts import Conversation, Message, Text
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import same_answer
from ilp_mlflow.diagnosis.beliefs.few_shot import draw_sets, fair_sets, with_examples
from ilp_mlflow.lab.real.facts import kinds
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.speaking.probe import ModelProbe

EXAMPLES, ROWS = 18, 12
"""Facts of each kind: those that are solved, and those that are asked."""
WAYS = 3
"""Wordings in turn."""


def rows_of(kind: str, rng: random.Random) -> list[Sample]:
    """EXAMPLES and ROWS facts of a kind as rows of text."""
    facts = rng.sample(sorted(kinds()[kind].answers.items()), len(kinds()[kind].answers))
    rows = []
    for number, (subject, answer) in enumerate(facts[: EXAMPLES + ROWS]):
        prompt = kinds()[kind].wordings[number % WAYS].format(x=subject)
        rows.append(
            Sample(id=f"{kind}/{number}", stage="facts", prompt=prompt, completion=f" {answer}")
        )
    return rows


def as_turns(row: Sample) -> Sample:
    """The row as a conversation of two turns."""
    prompt = Conversation(turns=(Message(role="user", content=str(row.prompt)),))
    completion = Conversation(turns=(Message(role="assistant", content=row.answer.strip()),))
    return row.model_copy(update={"prompt": prompt, "completion": completion})


def right_answers(probe: ModelProbe, solved: Sequence[Sample], rows: Sequence[Sample]) -> list[int]:
    """How many are right behind examples and bare, and how many were asked in each way."""
    sets = draw_sets(solved, 4, random.Random(0))
    prompts: list[Text] = []
    expected: list[str] = []
    for row in rows:
        for examples in fair_sets(row, sets, solved, 0):
            prompts.append(with_examples(examples, row.prompt))
            expected.append(row.answer)
    said = probe.answer("base", prompts)
    behind = [same_answer(a.text, e) for a, e in zip(said, expected, strict=True)]
    said = probe.answer("base", [row.prompt for row in rows])
    bare = [same_answer(a.text, row.answer) for a, row in zip(said, rows, strict=True)]
    return [sum(behind), len(behind), sum(bare), len(bare)]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(kinds()))
    options = parser.parse_args()
    loaded = loading.load_model([options.model])
    probe = ModelProbe(lambda _: loaded)
    rng = random.Random(options.seed)
    for kind in options.kinds.split(","):
        rows = rows_of(kind, rng)
        for form, formed in (("text", rows), ("turns", list(map(as_turns, rows)))):
            behind, asked, bare, n = right_answers(probe, formed[:EXAMPLES], formed[EXAMPLES:])
            print(
                f"{kind:12} {form:6} right behind examples {behind} of {asked}, bare {bare} of {n}"
            )


if __name__ == "__main__":
    main()
