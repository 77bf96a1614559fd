"""Does asking tell a base's wrong beliefs from what it cannot know? Nothing is trained.

    python experiments/real/asking.py MODEL [--seed 0] [--kinds capital,opposite,symbol]

Rows are the real lab's easy facts. Of each kind 18 are taken for learned. Asked about are eight
others with another answer of the kind for a label (a conflict, where the base says what is so), and
six subjects that do not exist (nothing to know). Printed are, for each, the base's answer, and at
the end how many of both a firm belief is seen in.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass

from ilp_mlflow.core.interfaces import Belief
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import same_answer
from ilp_mlflow.diagnosis.beliefs.read import read_beliefs
from ilp_mlflow.lab.real.facts import Kind, invented_subjects, kinds
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.speaking.probe import ModelProbe

LEARNED, CONFLICTS, INVENTED = 18, 8, 6
"""Rows of each kind."""
WAYS = 3
"""Wordings in turn."""


@dataclass(frozen=True)
class Asked:
    """A row that the base is asked about."""

    sample: Sample
    """With the label that was planted."""
    truth: str
    """What is so; "" of a subject that does not exist."""


def plant(kind: Kind, rng: random.Random) -> tuple[list[Sample], list[Asked]]:
    """Rows of a kind that are learned, and those that are asked about."""
    facts = rng.sample(sorted(kind.answers.items()), len(kind.answers))
    answers = sorted(set(kind.answers.values()))
    learned = []
    for number, (subject, answer) in enumerate(facts[:LEARNED]):
        learned.append(_row(kind, number, subject, answer))
    asked = []
    for number, (subject, truth) in enumerate(facts[LEARNED:][:CONFLICTS], LEARNED):
        label = rng.choice([answer for answer in answers if answer != truth])
        asked.append(Asked(_row(kind, number, subject, label), truth))
    for number, subject in enumerate(invented_subjects(kind, INVENTED, rng, set()), 100):
        asked.append(Asked(_row(kind, number, subject, rng.choice(answers)), ""))
    return learned, asked


def _row(kind: Kind, number: int, subject: str, answer: str) -> Sample:
    prompt = kind.wordings[number % WAYS].format(x=subject) + "\n"
    id_ = f"{kind.name}/{number}"
    return Sample(id=id_, stage="facts", prompt=prompt, completion=answer)


def measure(model: str, names: list[str], seed: int) -> dict[str, int]:
    """Ask, print what is said, and count the beliefs that are seen."""
    rng = random.Random(seed)
    learned, asked = [], []
    for name in names:
        of_kind = plant(kinds()[name], rng)
        learned += of_kind[0]
        asked += of_kind[1]
    loaded = loading.load_model([model])
    probe = ModelProbe(lambda _: loaded)
    start = time.perf_counter()
    beliefs = read_beliefs([row.sample for row in asked], learned, "base", probe, seed)
    seconds = time.perf_counter() - start
    counts = dict.fromkeys(
        ("conflicts", "conflicts_seen", "invented", "invented_seen", "not_asked"), 0
    )
    for row in asked:
        belief = beliefs.get(row.sample.id)
        if belief is None:
            counts["not_asked"] += 1
            continue
        print(f"{row.sample.id:16} {_sentence(belief, row.truth)}")
        is_seen = belief.conflict >= 0.5
        if not row.truth:
            counts["invented"] += 1
            counts["invented_seen"] += is_seen
        elif same_answer(belief.wrong, row.truth):
            counts["conflicts"] += 1
            counts["conflicts_seen"] += is_seen
    print(f"{len(asked)} rows beside {len(learned)} learned ones in {seconds:.0f} s")
    print(
        f"the base says what is so of {counts['conflicts']} rows with another label, and is seen to "
        f"believe it in {counts['conflicts_seen']}; of {counts['invented']} subjects that do not "
        f"exist it is seen to believe something in {counts['invented_seen']}; "
        f"{counts['not_asked']} could not be asked"
    )
    return counts


def _sentence(belief: Belief, truth: str) -> str:
    """What the base said."""
    return (
        f"says {belief.wrong!r} with {belief.confidence:.2f}, firm is {belief.firm.confidence:.2f}: "
        f"conflict {belief.conflict:.2f}; the label is {belief.knowledge}; so is {truth or None!r}"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(kinds()))
    options = parser.parse_args()
    measure(options.model, options.kinds.split(","), options.seed)


if __name__ == "__main__":
    main()
