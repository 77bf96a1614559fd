"""Hand-made contexts for diagnostics, with answers that are known."""

import math

import numpy as np

from ilp_mlflow import Checkpoint, Exposure, Sample, Score, Signal, Verdict
from ilp_mlflow.core.values import to_table
from ilp_mlflow.plugin import Belief, Context, Firmness, GreedyAnswer, Stage, UnlearnedRisk

CHECKPOINTS = ("base", "first", "second")


class FakeProbe:
    """Says and believes what it is told: `sure` by (checkpoint, prompt, completion), `says` by (checkpoint, prompt), `states` by
    prompt."""

    def __init__(self, sure=None, says=None, states=None):
        self.sure, self.says, self.states, self.asked = sure or {}, says or {}, states or {}, 0

    def logprobs(self, checkpoint, exchanges):
        self.asked += len(exchanges)
        return [
            math.log(self.sure.get((checkpoint, prompt, text(completion)), 1e-6))
            for prompt, completion in exchanges
        ]

    def answer(self, checkpoint, prompts, max_new_tokens=16):
        self.asked += len(prompts)
        answers = []
        for prompt in prompts:
            said = self.says.get((checkpoint, prompt), "")
            sure = self.sure.get((checkpoint, prompt, said), 1e-6)
            answers.append(GreedyAnswer(said, math.log(sure)))
        return answers

    def embed(self, checkpoint, prompts):
        width = len(next(iter(self.states.values()), (0.0,)))
        return np.array(
            [self.states.get(prompt, [np.nan] * width) for prompt in prompts], float
        ).reshape(len(prompts), width)

    def generate(self, checkpoint, prompts, n):
        raise NotImplementedError


def text(completion):
    return (completion if isinstance(completion, str) else completion[-1].content).strip()


def sample(id_, prompt="p", completion=" c", stage="first", **more):
    return Sample(id=id_, stage=stage, prompt=prompt, completion=completion, **more)


def belief(right=0.0, wrong="", confidence=0.0, phrasings=("a", "b", "c"), firm=0.9):
    return Belief(
        right,
        wrong,
        confidence,
        phrasings,
        firm=Firmness(firm),
        unlearned_risk=UnlearnedRisk(0.0, 1.0),
    )


def context(
    samples,
    histories=None,
    scores=(),
    exposures=None,
    beliefs=None,
    probe=None,
    relearn=None,
    signals=None,
    checkpoints=CHECKPOINTS,
):
    """A context in which every sample has been unlearned from the start, unless `histories` says otherwise by id."""
    histories = {s.id: ("unlearned",) * len(checkpoints) for s in samples} | (histories or {})
    stages = dict.fromkeys(s.stage for s in samples)
    return Context(
        stages=[
            Stage(name=name, samples=tuple(s for s in samples if s.stage == name))
            for name in stages
        ],
        checkpoints=[Checkpoint(name=name, model_uri="u") for name in checkpoints],
        samples={s.id: s for s in samples},
        scores=to_table(scores, Score),
        verdicts={
            id_: Verdict(sample_id=id_, status=statuses[-1]) for id_, statuses in histories.items()
        },
        histories=histories,
        probe=probe or FakeProbe(),
        asked=frozenset(histories),
        beliefs=lambda: beliefs or {},
        relearn=relearn,
        exposures=None if exposures is None else to_table(exposures, Exposure),
        signals=None if signals is None else to_table(signals, Signal),
    )


def strength_of_belief(diagnostic, believed):
    """How strong a diagnostic's evidence is for a sample of which the base believes this; None without evidence."""
    asked = sample("x")
    known = context([asked], beliefs={"x": believed} if believed else {})
    evidence = diagnostic.examine([asked], known).get("x")
    return evidence.strength if evidence else None
