"""Other ways to ask about what a sample asks about, mined from the prompts of all rows."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from ilp_mlflow.core.values import Sample, Text, last_turn
from ilp_mlflow.data.matching import answer_key, with_answer

LONGEST = 4
"""Words of the longest stretch of a prompt that is taken for what it asks about."""
FILLERS = 5
"""Other stretches that must stand in the same place of some row."""
PROMPT, CHARACTERS = 40, 400
"""Words, and characters, of the longest prompt that is read."""
ENOUGH = 0.5
"""Agreement of answers that is enough, as a share 0..1 of the row's most."""
RECUR = 2
"""Rows per template, on average, from which prompts are made from templates."""
MADE = 0.5
"""Share 0..1 of a stage's rows in which it can be told from which its prompts are made from templates."""
FEW = 10
"""Pairs of rows that show little."""
FRAME = 0.5
"""Share 0..1 of the prompts that have a word of the frame all stand in, which asks nothing."""
GAP = "\0"
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Question:
    """A prompt as a template, what stands in its gap, and the form of its answer."""

    template: Text
    """The prompt, or a conversation that ends with it, with GAP in the entity's place."""
    entity: str
    """What the row asks about."""
    completion: Text
    """The row's answer."""

    def about(self, entity: str) -> Text:
        """The same question about `entity`."""
        if isinstance(self.template, str):
            return self.template.replace(GAP, entity)
        *before, last = self.template
        return (*before, last.model_copy(update={"content": last.content.replace(GAP, entity)}))

    def answered(self, entity: str, answer: str) -> tuple[Text, Text]:
        """The same question about `entity`, answered with `answer`."""
        return self.about(entity), with_answer(self.completion, answer)


def mine_questions(samples: Sequence[Sample]) -> dict[str, Question]:
    """What each of `samples` asks about, by id, for those in which it can be told.

    A stretch of words counts when FILLERS others stand in the same place of other rows. Chosen is the shortest of those whose rows
    agree in their answers, since what a row asks about decides its answer more than how it asks. Then a row asks about that of its
    stretches which was chosen for most rows. Nothing is told where templates hardly recur, or of a stage of which
    few rows have one: what varies in free text is no entity.
    """
    last = {s.id: last_turn(s.prompt) for s in samples}
    words = Counter(
        word for prompt in last.values() for word in {w.casefold() for w in WORD.findall(prompt)}
    )
    frame = {
        word for word, rows in words.items() if rows > FRAME * len(samples) or not word.isalnum()
    }
    found = {s.id: list(_stretches(last[s.id], frame)) for s in samples}
    fillers = defaultdict[str, set[str]](set)
    for stretches in found.values():
        for template, filler, _ in stretches:
            fillers[template].add(filler)
    answers = defaultdict[str, Counter[str]](Counter)
    usable = {
        id_: [x for x in stretches if len(fillers[x[0]]) > FILLERS]
        for id_, stretches in found.items()
    }
    for sample in samples:
        for filler in {filler for _, filler, _ in usable[sample.id]}:
            answers[filler][answer_key(sample.answer)] += 1
    usual = _agreement(Counter(answer_key(s.answer) for s in samples))
    lift = {filler: max(0.0, _agreement(counts) - usual) for filler, counts in answers.items()}
    first = {}
    for id_, own in usable.items():
        most = max((lift[filler] for _, filler, _ in own), default=0.0)
        telling = [
            (length, -lift[filler], filler)
            for _, filler, length in own
            if lift[filler] >= ENOUGH * most
        ]
        if telling:
            first[id_] = min(telling)[2]
    often = Counter(first.values())
    chosen = {}
    for sample in samples:
        template, entity, _ = max(
            found[sample.id], key=lambda x: (often[x[1]], -x[2]), default=("", "", 0)
        )
        if often[entity]:
            prompt = sample.prompt
            whole = (
                template
                if isinstance(prompt, str)
                else (*prompt[:-1], prompt[-1].model_copy(update={"content": template}))
            )
            chosen[sample.id] = Question(whole, entity, sample.completion)
    rows, told = (
        Counter(s.stage for s in samples),
        Counter(s.stage for s in samples if s.id in chosen),
    )
    chosen = {
        s.id: chosen[s.id]
        for s in samples
        if s.id in chosen and told[s.stage] >= MADE * rows[s.stage]
    }
    return (
        chosen
        if len(chosen) >= RECUR * len({question.template for question in chosen.values()})
        else {}
    )


def draw_questions(found: Mapping[str, Question], n: int, rng: random.Random) -> list[Question]:
    """Up to `n` questions with different templates, drawn by how many rows have them."""
    by_template = {question.template: question for question in found.values()}
    often = Counter(question.template for question in found.values())
    keys = {template: rng.random() ** (1 / often[template]) for template in by_template}
    return [by_template[template] for template in sorted(keys, key=lambda t: -keys[t])[:n]]


def _agreement(counts: Counter[str]) -> float:
    """Share 0..1 of pairs of rows with the same answer, as if FEW pairs without it had been seen too."""
    n = counts.total()
    return sum(k * (k - 1) for k in counts.values()) / (n * (n - 1) + FEW)


def _stretches(prompt: str, frame: Set[str]) -> Iterator[tuple[str, str, int]]:
    """The prompt with a gap, what was there, and its length in words; what is left has a word that is not of the `frame`."""
    if len(prompt) > CHARACTERS or GAP in prompt:
        return
    words = [(m.start(), m.end(), m[0].isalnum()) for m in WORD.finditer(prompt)]
    if len(words) > PROMPT:
        return
    told = [
        n for n, (start, end, _) in enumerate(words) if prompt[start:end].casefold() not in frame
    ]
    for first, length in itertools.product(range(len(words)), range(1, LONGEST + 1)):
        whole = first + length <= len(words) and words[first][2] and words[first + length - 1][2]
        if whole and any(not first <= n < first + length for n in told):
            start, end = words[first][0], words[first + length - 1][1]
            yield prompt[:start] + GAP + prompt[end:], prompt[start:end], length
