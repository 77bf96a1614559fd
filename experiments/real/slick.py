"""Is the cheap estimate of what a base knows the one of the study? Nothing is trained.

    python experiments/real/slick.py MODEL [--facts 200] [--seed 0] [--out FILE.json]

SliCK (Gekhman et al., EMNLP 2024, arXiv 2405.05904) puts what a model knows of an answer into four
classes: it is asked behind ten sets of four solved questions, greedily and with 16 samples at
temperature .5. A diagnosis asks behind three sets of five, greedily, and takes the answer's
probability for samples. Asked about are the real lab's easy facts, kind after kind, every fourth
with another answer of its kind. Printed is how many answers have which class in both. Sampled is
only where no greedy answer is right, since nothing else decides there.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from ilp_mlflow.core.interfaces import SlickClass
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import same_answer
from ilp_mlflow.diagnosis.beliefs.asking import BaseProbe
from ilp_mlflow.diagnosis.beliefs.few_shot import reveals_answer, with_examples
from ilp_mlflow.diagnosis.beliefs.from_few_shot import FewShot
from ilp_mlflow.diagnosis.beliefs.kinds import kinds_of
from ilp_mlflow.diagnosis.beliefs.templates import mine_questions
from ilp_mlflow.lab.real.facts import kinds
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.models.loading import LoadedModel
from ilp_mlflow.scoring.speaking.greedy_answers import first_sentences, generation_settings
from ilp_mlflow.scoring.speaking.probe import ModelProbe
from ilp_mlflow.scoring.tokens.encoding import encode_prompt

SOLVED = 18
"""Facts of each kind that are solved in front of others."""
EXAMPLES = 4
"""Solved questions in a set of the study."""
TEMPERATURE = 0.5
"""Of its samples."""
OTHER_EVERY = 4
"""One fact in so many is asked with another answer of its kind."""
WAYS = 3
"""Wordings in turn."""
MAX_NEW_TOKENS = 12
"""Tokens of a sampled answer."""
CLASSES: tuple[SlickClass, ...] = get_args(SlickClass)


@dataclass(frozen=True)
class Study:
    """How much is asked in the full measure."""

    sets: int = 10
    """Sets of examples."""
    samples: int = 16
    """Samples behind each set."""


def rows_of(n: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """The solved rows, and `n` that are asked about, from all kinds in turn."""
    rng = random.Random(seed)
    solved: list[Sample] = []
    queues: list[list[Sample]] = []
    for kind in kinds().values():
        answers = sorted(set(kind.answers.values()))
        facts = rng.sample(sorted(kind.answers.items()), len(kind.answers))
        rows = []
        for number, (subject, answer) in enumerate(facts):
            if number >= SOLVED and number % OTHER_EVERY == 0:
                answer = rng.choice([other for other in answers if other != answer])
            prompt = kind.wordings[number % WAYS].format(x=subject)
            id_ = f"{kind.name}/{number}"
            rows.append(Sample(id=id_, stage="facts", prompt=prompt, completion=f" {answer}"))
        solved += rows[:SOLVED]
        queues.append(rows[SOLVED:])
    asked: list[Sample] = []
    while len(asked) < n and any(queues):
        for queue in queues:
            if queue and len(asked) < n:
                asked.append(queue.pop(0))
    return solved, asked


def cheap_classes(
    probe: ModelProbe, solved: Sequence[Sample], asked: Sequence[Sample], seed: int
) -> dict[str, SlickClass]:
    """The class of each row as a diagnosis estimates it, by id."""
    rows = [*asked, *solved]
    questions = mine_questions(rows)
    base = BaseProbe(probe, "base")
    few_shot = FewShot(base, solved, questions, kinds_of(rows, questions), seed)
    return {id_: belief.knowledge for id_, belief in few_shot.beliefs(asked).items()}


def full_classes(
    loaded: LoadedModel,
    probe: ModelProbe,
    solved: Sequence[Sample],
    asked: Sequence[Sample],
    study: Study,
    seed: int,
) -> dict[str, SlickClass]:
    """The class of each row as the study measures it, by id."""
    prompts = study_prompts(solved, asked, study.sets, seed)
    flat = [prompt for row in asked for prompt in prompts[row.id]]
    answers = iter(probe.answer("base", flat, MAX_NEW_TOKENS))
    classes: dict[str, SlickClass] = {}
    for row in asked:
        said = [next(answers).text for _ in prompts[row.id]]
        right = [same_answer(text, row.answer) for text in said]
        if all(right):
            classes[row.id] = "HighlyKnown"
        elif any(right):
            classes[row.id] = "MaybeKnown"
    torch.manual_seed(seed)
    never = [row for row in asked if row.id not in classes]
    for number, row in enumerate(never, 1):
        print(f"sampling {number} of {len(never)}", file=sys.stderr)
        classes[row.id] = "Unknown"
        for prompt in prompts[row.id]:
            if is_ever_sampled(loaded, prompt, row.answer, study.samples):
                classes[row.id] = "WeaklyKnown"
                break
    return classes


def study_prompts(
    solved: Sequence[Sample], asked: Sequence[Sample], n_sets: int, seed: int
) -> dict[str, list[str]]:
    """Each row behind `n_sets` sets of its kind that do not hold its answer, by id.

    The rows of a kind share their sets as far as they can, so that most is read once.
    """
    rng = random.Random(seed)
    shared: dict[str, list[list[Sample]]] = {}
    prompts: dict[str, list[str]] = {}
    for row in asked:
        kind, _, _ = row.id.partition("/")
        of_kind = [other for other in solved if other.id.startswith(f"{kind}/")]
        if kind not in shared:
            shared[kind] = [rng.sample(of_kind, EXAMPLES) for _ in range(n_sets)]
        fair = [other for other in of_kind if not reveals_answer(other, row)]
        prompts[row.id] = []
        for examples in shared[kind]:
            if any(reveals_answer(example, row) for example in examples):
                examples = rng.sample(fair, min(EXAMPLES, len(fair)))
            prompts[row.id].append(str(with_examples(examples, row.prompt)))
    return prompts


def is_ever_sampled(loaded: LoadedModel, prompt: str, answer: str, n: int) -> bool:
    """Whether one of `n` samples at TEMPERATURE is the answer."""
    ids = encode_prompt(loaded.tokenizer, prompt)
    with generation_settings(
        loaded,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        top_p=1.0,
    ) as settings:
        said = first_sentences(loaded, [ids] * n, settings)
    return any(same_answer(one.text, answer) for one in said)


def table(full: dict[str, SlickClass], cheap: dict[str, SlickClass]) -> str:
    """How many rows have which class in both, as Markdown, and how many agree."""
    counts = Counter((full[id_], cheap.get(id_)) for id_ in full)
    columns: list[SlickClass | None] = [*CLASSES, None]
    lines = [
        "| the study's | " + " | ".join(c or "not asked" for c in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in CLASSES:
        cells = [str(counts[row, column]) for column in columns]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    same = sum(counts[c, c] for c in CLASSES)
    near = sum(n for (a, b), n in counts.items() if b and abs(_place(a) - _place(b)) <= 1)
    lines.append(f"the same class: {same} of {len(full)}; at most one class apart: {near}")
    return "\n".join(lines)


def _place(name: SlickClass) -> int:
    return CLASSES.index(name)


def measure(model: str, n: int, seed: int, study: Study) -> dict[str, dict[str, SlickClass]]:
    """Both classes of `n` rows, by measure and id."""
    loaded = loading.load_model([model])
    probe = ModelProbe(lambda _: loaded)
    solved, asked = rows_of(n, seed)
    cheap = cheap_classes(probe, solved, asked, seed)
    full = full_classes(loaded, probe, solved, asked, study, seed)
    print(table(full, cheap))
    return {"full": full, "cheap": cheap}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--facts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", type=int, default=Study.sets)
    parser.add_argument("--samples", type=int, default=Study.samples)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    study = Study(options.sets, options.samples)
    classes = measure(options.model, options.facts, options.seed, study)
    if options.out:
        options.out.write_text(json.dumps(classes, indent=1), "utf-8")


if __name__ == "__main__":
    main()
