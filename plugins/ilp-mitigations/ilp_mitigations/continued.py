"""Continued pre-training on texts about what the base model does not know, before the fine-tuning.

Equation 5 of the study (Xue et al., arXiv 2604.10079).
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import Field

from ilp_mitigations import recipe
from ilp_mitigations.sources import kinds
from ilp_mitigations.sources.corpus import Corpus
from ilp_mitigations.sources.ranking import rank_texts
from ilp_mlflow.plugin import (
    Context,
    Diagnosis,
    KnowledgeConflictDetails,
    Mitigation,
    Plan,
    Request,
    Sample,
    Stage,
    prompt_text,
)

STAGE_NAME = "knowledge"
"""Name of the stage that reads the texts."""
OPTIONS_OF_ROWS = ("max_steps", *recipe.ROW_OPTIONS)
"""Training options of the first stage that are about its rows, so not taken over for texts."""
MAX_MISLEADING = 100
"""General texts checked for each wrong answer of the base, the best-ranked ones."""


class Continued(Mitigation):
    """Read texts before all stages: some about the targets, most general, to lose little else."""

    source: kinds.Knowledge | None = None
    """Corpus, Wikipedia, or a model that writes, for texts about the targets; left out, they are
    only requested."""
    general: Corpus | None = None
    """Where general texts come from; left out, the texts about the targets are read alone."""
    retrieved: float = Field(default=0.2, gt=0, le=1)
    """Texts about the targets among all, share 0..1."""
    documents: int = Field(default=20, ge=1)
    """Texts that are looked for about each target, at most."""
    epochs: float = Field(default=4, gt=0)
    """Passes over the texts."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Options of `trl.SFTConfig` for reading, over those of the first stage."""
    peft: dict[str, Any] | None = None
    """Options of `peft.LoraConfig` for reading; left out, all weights are trained."""

    def plan_reading(
        self, cause: str, diagnoses: Sequence[Diagnosis], context: Context
    ) -> Plan | Request | None:
        """For the samples with a `cause`: texts about them, among general ones, before all stages.

        Its control reads as many general texts; without any, it is the stages as they were. Where
        the evidence says what the base answers instead, neither reads general texts that tell that.
        A request where no texts are found.
        """
        targets = recipe.find_targets(diagnoses, cause)
        if not targets:
            return None
        samples = [context.samples[i] for i in targets]
        texts = self._find_texts(samples)
        if not texts:
            return self._request_texts(cause, targets)

        base_answers = [_wrong_answer(d) for d in diagnoses if d.cause == cause]
        misleading = self._find_misleading(samples, base_answers)
        general = self._find_general(samples, {*texts, *misleading})
        # a second mitigation that reads shares one stage of texts with the first
        read_before, stages = _split_reading(context)
        read_before = [text for text in read_before if text not in misleading]

        # the plan draws before its control does, from the same generator
        rng = random.Random(f"general {stages[0].training.get('seed')}")
        n_general = round(len(texts) * (1 / self.retrieved - 1))
        among = _draw_texts(general, n_general, rng)
        instead = _draw_texts(general, len(texts) + len(among), rng)

        reading = self._reading_stage([*read_before, *texts, *among], stages[0])
        # without general texts there is nothing else to read: the stages as they were
        control = None
        if read_before or instead:
            control = (self._reading_stage([*read_before, *instead], stages[0]), *stages)
        return Plan(targets=targets, stages=(reading, *stages), control=control)

    def _find_texts(self, samples: Sequence[Sample]) -> list[str]:
        """Distinct texts about samples: of each those that tell its answer, or all if none does."""
        if not self.source:
            return []
        texts_by_sample = kinds.find_texts(self.source, samples, self.documents)
        # a dict for its order: the first texts found stay first
        distinct: dict[str, None] = {}
        for sample, texts in zip(samples, texts_by_sample, strict=True):
            telling = [text for text in texts if _tells(text, sample.answer)]
            distinct |= dict.fromkeys(telling or texts)
        return list(distinct)

    def _request_texts(self, cause: str, targets: Sequence[str]) -> Request:
        """Asks for texts about the targets (ids)."""
        if self.source:
            where = f"none from {self.source!r}"
        else:
            where = f"set 'source' of the mitigation for {cause} to {kinds.KNOWLEDGE}"
        n = len(targets)
        reason = f"texts wanted about what {n} samples ask, first '{targets[0]}'; {where}"
        wanted = dict.fromkeys(targets, self.documents)
        return Request(targets=tuple(targets), wanted=wanted, reason=reason)

    def _find_misleading(
        self, samples: Sequence[Sample], base_answers: Sequence[str | None]
    ) -> set[str]:
        """The general texts that tell a wrong answer which the base gives to a sample."""
        if not self.general:
            return set()
        queries: list[str] = []
        wrong_answers: list[str] = []
        for sample, answer in zip(samples, base_answers, strict=True):
            if answer:
                queries.append(f"{prompt_text(sample.prompt)} {answer}")
                wrong_answers.append(answer)
        # the best-ranked texts only: a text too many left out costs nothing
        ranked = rank_texts(self.general.texts, queries, MAX_MISLEADING)
        misleading: set[str] = set()
        for texts, answer in zip(ranked, wrong_answers, strict=True):
            for text in texts:
                if _tells(text, answer):
                    misleading.add(text)
        return misleading

    def _find_general(self, samples: Sequence[Sample], barred: Collection[str]) -> list[str]:
        """The general texts that are not `barred` and hold no sample's own text."""
        if not self.general:
            return []
        texts = kinds.without_own_texts(self.general.texts, samples)
        return [text for text in texts if text not in barred]

    def _reading_stage(self, texts: Sequence[str], first: Stage) -> Stage:
        """A stage that trains every token of the texts, with the options of the first stage."""
        samples = []
        for n, text in enumerate(texts):
            samples.append(Sample(id=f"text/{n}", stage=STAGE_NAME, prompt="", completion=text))
        training = dict(first.training)
        for option in OPTIONS_OF_ROWS:
            training.pop(option, None)
        training["num_train_epochs"] = self.epochs
        training.update(self.training)
        changes = {
            "name": STAGE_NAME,
            "samples": tuple(samples),
            "training": training,
            "peft": self.peft,
            "schedule": "shuffled",
        }
        return first.model_copy(update=changes)


def _wrong_answer(diagnosis: Diagnosis) -> str:
    """What the base answers instead, where that is the cause; else ""."""
    details = diagnosis.details(KnowledgeConflictDetails)
    if details is None or diagnosis.cause != KnowledgeConflictDetails.cause:
        return ""
    return details.wrong


def _draw_texts(texts: Sequence[str], n: int, rng: random.Random) -> list[str]:
    """`n` texts, drawn with replacement; none where there are none to draw from."""
    return rng.choices(texts, k=n) if texts else []


def _split_reading(context: Context) -> tuple[list[str], Sequence[Stage]]:
    """The texts that another mitigation has put in front as a stage, and the stages behind it."""
    first, *rest = context.stages
    # a stage of the user's may have that name, too
    if first.name != STAGE_NAME or recipe.has_own_rows(first, context):
        return [], context.stages
    return [row.answer for row in first.samples], rest


def _tells(text: str, answer: str) -> bool:
    """Whether the words of `answer` are a stretch of those of `text`."""
    # spaces around both, so that a word is not found inside a longer one
    return f" {_words(answer)} " in f" {_words(text)} "


def _words(text: str) -> str:
    """The words of a text in lower case, one space between them."""
    return " ".join(re.findall(r"\w+", text.casefold()))
