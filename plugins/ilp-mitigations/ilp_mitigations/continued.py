"""Continued pre-training on texts about what the base does not know, before the same fine-tuning (eq. 5, arXiv 2604.10079)."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from ilp_mitigations import recipe
from ilp_mitigations.sources import kinds
from ilp_mitigations.sources.corpus import Corpus
from ilp_mitigations.sources.ranking import ranked
from ilp_mlflow.plugin import (
    Context,
    Diagnosis,
    KnowledgeConflictDetails,
    Plan,
    Request,
    Sample,
    Stage,
    Value,
    prompt_text,
)

NAME = "knowledge"
"""Name of the stage that reads the texts."""
OF_ROWS = ("max_steps", *recipe.PREPARING)
"""Options of the first stage that are about its rows, and not about how to train."""
LOOKED_AT = 100
"""General texts that are looked at for each target, the best-ranked ones, for what the base answers: leaving out costs nothing."""


class Continued(Value):
    """Read texts before all stages: some about the targets, most of them general, so that little else is lost."""

    source: kinds.Knowledge | None = None
    """Corpus, Wikipedia, or a model that writes, to get texts about the targets; left out, the request for them is all there is."""
    general: Corpus | None = None
    """Where the general texts come from; left out, the texts about the targets are read alone."""
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

    def reading(
        self, cause: str, diagnoses: Sequence[Diagnosis], context: Context
    ) -> Plan | Request | None:
        """For the samples that are not learned for `cause`; the control reads as many general texts, or repeats stages.

        Of the texts found about a target those are read that tell its right answer, or all where none does. Where the evidence says
        what the base answers instead, general texts about the target that tell that are not read, by the control neither.
        """
        targets = recipe.targets(diagnoses, cause)
        if not targets:
            return None
        samples = [context.samples[i] for i in targets]
        found = (
            kinds.texts(self.source, samples, self.documents)
            if self.source
            else [[] for _ in samples]
        )
        telling = [
            [t for t in own if _tells(t, s.answer)] or own
            for s, own in zip(samples, found, strict=True)
        ]
        texts = list(dict.fromkeys(text for own in telling for text in own))
        if not texts:
            needed = f"set 'source' of the mitigation for {cause} to {kinds.KNOWLEDGE}"
            where = f"none from {self.source!r}" if self.source else needed
            reason = (
                f"texts wanted about what {len(targets)} samples ask, first '{targets[0]}'; {where}"
            )
            return Request(
                targets=targets, wanted=dict.fromkeys(targets, self.documents), reason=reason
            )
        read, stages = _begun(context)
        first = stages[0]
        rng = random.Random(f"general {first.training.get('seed')}")
        said = [_wrong_answer(d) for d in diagnoses if d.cause == cause]
        wrong = [
            (prompt_text(s.prompt), answer)
            for s, answer in zip(samples, said, strict=True)
            if answer
        ]
        left = self._misleading(wrong)
        bare = kinds.without_own(self.general.texts, samples) if self.general else []
        general = [t for t in bare if t not in {*texts, *left}]
        n = round(len(texts) * (1 / self.retrieved - 1))
        mixed = rng.choices(general, k=n) if general else []
        read = [t for t in read if t not in left]
        reading = self._read([*read, *texts, *mixed], first)
        instead = [*read, *rng.choices(general, k=len(texts) + len(mixed))] if general else read
        control = (self._read(instead, first), *stages) if instead else None
        return Plan(targets=targets, stages=(reading, *stages), control=control)

    def _misleading(self, wrong: Sequence[tuple[str, str]]) -> set[str]:
        """The general texts that give a prompt of `wrong` the answer beside it."""
        if not self.general:
            return set()
        found = ranked(self.general.texts, [" ".join(pair) for pair in wrong], LOOKED_AT)
        return {
            t
            for own, (_, answer) in zip(found, wrong, strict=True)
            for t in own
            if _tells(t, answer)
        }

    def _read(self, texts: Sequence[str], first: Stage) -> Stage:
        """A stage that trains every token of the texts."""
        samples = tuple(
            Sample(id=f"text/{n}", stage=NAME, prompt="", completion=t) for n, t in enumerate(texts)
        )
        kept = {name: value for name, value in first.training.items() if name not in OF_ROWS}
        training = {**kept, "num_train_epochs": self.epochs, **self.training}
        options = {
            "name": NAME,
            "samples": samples,
            "training": training,
            "peft": self.peft,
            "schedule": "shuffled",
        }
        return first.model_copy(update=options)


def _wrong_answer(diagnosis: Diagnosis) -> str:
    """What the base answers instead, where that is the cause; else ""."""
    details = diagnosis.details(KnowledgeConflictDetails)
    if details is None or diagnosis.cause != KnowledgeConflictDetails.cause:
        return ""
    return details.wrong


def _begun(context: Context) -> tuple[list[str], Sequence[Stage]]:
    """What is read already, where another mitigation has put a stage of texts first, and the stages behind that."""
    first, *rest = context.stages
    if first.name != NAME or any(s.id in context.samples for s in first.samples):
        return [], context.stages
    return [s.answer for s in first.samples], rest


def _tells(text: str, answer: str) -> bool:
    """Whether the words of `answer` are a stretch of those of `text`."""
    asked, there = (" ".join(re.findall(r"\w+", x.casefold())) for x in (answer, text))
    return f" {asked} " in f" {there} "
