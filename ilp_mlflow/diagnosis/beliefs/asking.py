"""Asks the base model many questions in one call: how probable answers are, and what it answers."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple, TypeVar

from ilp_mlflow.core.interfaces import GreedyAnswer, Probe
from ilp_mlflow.core.texts import Text, last_turn
from ilp_mlflow.data.matching import answer_key, with_answer

K = TypeVar("K")
V = TypeVar("V")


class Phrasing(NamedTuple):
    """One way to ask a question."""

    prompt: Text
    """What the model is given."""
    completion: Text
    """An answer to it; other answers are given its form."""


class CommonAnswer(NamedTuple):
    """What the base answers to most phrasings of a question."""

    text: str
    """The most frequent answer; "" where that is to say nothing."""
    confidence: float
    """Its mean probability 0..1 over the phrasings; 0 for no answer."""
    ended: bool
    """It came to an end by itself and was not cut off."""
    is_majority: bool
    """More than half of the phrasings are answered with it."""
    answers: tuple[GreedyAnswer, ...]
    """The answer to each phrasing that fits into the model."""


@dataclass(frozen=True)
class BaseProbe:
    """The base model behind a probe. Questions come grouped by any key, and so do answers."""

    probe: Probe
    """Asks checkpoints."""
    checkpoint: str
    """Name of the base."""
    said: dict[tuple[Text, str], float] = field(default_factory=dict)
    """Log-probabilities, nats, of what it answered, by prompt and answer: they need no asking."""

    def probabilities(
        self, exchanges: Mapping[K, Sequence[tuple[Text, Text]]]
    ) -> dict[K, list[float]]:
        """Probability 0..1 of each completion after its prompt.

        What does not fit into the model is left out.
        """
        flat = list(itertools.chain.from_iterable(exchanges.values()))
        unsaid = [exchange for exchange in flat if _as_said(exchange) not in self.said]
        asked = iter(self.probe.logprobs(self.checkpoint, unsaid))
        logprobs = []
        for exchange in flat:
            said = self.said.get(_as_said(exchange))
            logprobs.append(next(asked) if said is None else said)
        logprobs_by_key = _regroup(logprobs, exchanges)
        probabilities = {}
        for key, logprobs in logprobs_by_key.items():
            probabilities[key] = _fitting_probabilities(logprobs)
        return probabilities

    def answers(self, prompts: Mapping[K, Sequence[Text]]) -> dict[K, list[GreedyAnswer]]:
        """The greedy answer to each prompt."""
        flat = list(itertools.chain.from_iterable(prompts.values()))
        answers = self.probe.answer(self.checkpoint, flat)
        for prompt, answer in zip(flat, answers, strict=True):
            if answer.text and not math.isnan(answer.logprob):
                self.said[prompt, answer.text] = answer.logprob
        return _regroup(answers, prompts)

    def common_answers(self, phrasings: Mapping[K, Sequence[Phrasing]]) -> dict[K, CommonAnswer]:
        """What most phrasings of each question are answered with.

        Left out are questions of which no phrasing fits into the model.
        """
        prompts: dict[K, list[Text]] = {}
        for key, group in phrasings.items():
            prompts[key] = [phrasing.prompt for phrasing in group]
        common = {}
        for key, answers in self.answers(prompts).items():
            fitting = [answer for answer in answers if not math.isnan(answer.logprob)]
            if fitting:
                common[key] = _most_frequent(fitting)
        # how sure the base is of it: its probability after each of the phrasings
        exchanges = {}
        for key, common_answer in common.items():
            if common_answer.text:
                exchanges[key] = _answered(phrasings[key], common_answer.text)
        for key, probabilities in self.probabilities(exchanges).items():
            if probabilities:
                common[key] = common[key]._replace(confidence=fmean(probabilities))
        return common


def _as_said(exchange: tuple[Text, Text]) -> tuple[Text, str]:
    """A prompt and its completion, as an answer to that prompt would be noted."""
    prompt, completion = exchange
    return prompt, last_turn(completion).strip()


def _regroup(values: Iterable[V], groups: Mapping[K, Sequence[object]]) -> dict[K, list[V]]:
    """Hand `values`, which came in one list, back to the groups they were asked for."""
    remaining = iter(values)
    regrouped = {}
    for key, group in groups.items():
        regrouped[key] = list(itertools.islice(remaining, len(group)))
    return regrouped


def _fitting_probabilities(logprobs: Iterable[float]) -> list[float]:
    """Probabilities 0..1 of log-probabilities, nats; nan, of what did not fit, is left out."""
    probabilities = []
    for logprob in logprobs:
        if not math.isnan(logprob):
            # rounding can make that of something certain slightly positive
            probabilities.append(math.exp(min(logprob, 0.0)))
    return probabilities


def _most_frequent(answers: Sequence[GreedyAnswer]) -> CommonAnswer:
    """The answer that most of `answers` say, without its confidence; of equals the first."""
    times_by_key = Counter(answer_key(answer.text) for answer in answers)
    key, times = times_by_key.most_common(1)[0]
    same = [answer for answer in answers if answer_key(answer.text) == key]
    # a wording that came to an end tells more than one that was cut off
    wording = min(same, key=lambda answer: not answer.ended)
    return CommonAnswer(wording.text, 0.0, wording.ended, 2 * times > len(answers), tuple(answers))


def _answered(phrasings: Iterable[Phrasing], answer: str) -> list[tuple[Text, Text]]:
    """The prompt of each phrasing with a completion that says `answer`."""
    return [(phrasing.prompt, with_answer(phrasing.completion, answer)) for phrasing in phrasings]
