"""What small trainings cost, and what they teach: trained in a scratch folder, nothing kept."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.errors import IlpError
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Checkpoint, Sample, Status
from ilp_mlflow.mitigation.confirm.removals import Arm
from ilp_mlflow.scoring.judged import score_and_judge
from ilp_mlflow.tracking import runs
from ilp_mlflow.training.stage import train_into

SECONDS_BESIDE = 15.0
"""Seconds that a small training takes beside its steps: models are loaded, written and scored."""


class ArmResult(Value):
    """What one small training taught."""

    stage: str
    """The stage it is a small form of."""
    name: str
    """The cause that was removed, or `control`."""
    rows: int
    """Rows trained."""
    steps: int
    """Optimizer steps."""
    taught: float
    """Share 0..1 of its check rows that it taught."""
    statuses: dict[str, Status]
    """Of the tested samples, by id."""


class Cost(Value):
    """What small trainings will take."""

    samples: int
    """Samples that are tested."""
    trainings: dict[str, int]
    """Small trainings by stage."""
    rows: int
    """Rows of the largest of them."""
    steps: int
    """Optimizer steps of all together."""
    seconds: float
    """Time, as far as the stages' own trainings tell."""

    @property
    def sentence(self) -> str:
        """The cost in one sentence."""
        by_stage = ", ".join(f"{n} of '{stage}'" for stage, n in self.trainings.items())
        minutes = max(1, round(self.seconds / 60))
        return (
            f"to try causes out ({self.samples} sample{'' if self.samples == 1 else 's'}): "
            f"{sum(self.trainings.values())} small trainings ({by_stage}), {self.rows} rows at "
            f"most, {self.steps} optimizer steps in all, about {minutes} min"
        )


def estimate_cost(arms: Sequence[Arm], checkpoints: Sequence[Checkpoint]) -> Cost:
    """What `arms` will take, by what the trainings of their stages took."""
    run_by_stage = {checkpoint.name: checkpoint.run_id for checkpoint in checkpoints}
    trainings: dict[str, int] = {}
    seconds = 0.0
    tested: set[str] = set()
    for arm in arms:
        stage = arm.bench.original
        trainings[stage.name] = trainings.get(stage.name, 0) + 1
        tested |= {sample.id for sample in arm.bench.tested}
        run_id = run_by_stage[stage.name]
        took = runs.metrics(run_id).get("seconds", 0.0) if run_id else 0.0
        seconds += SECONDS_BESIDE + took * arm.steps / stage.steps
    return Cost(
        samples=len(tested),
        trainings=trainings,
        rows=max(len(arm.stages[-1].samples) for arm in arms),
        steps=sum(arm.steps for arm in arms),
        seconds=seconds,
    )


def train_arms(
    arms: Sequence[Arm], wrong: Mapping[str, Sequence[str]], experiment: Experiment
) -> list[ArmResult]:
    """Train and score small trainings one after the other; `wrong` are wrong options by sample id.

    One that fails is told, and taught nothing.
    """
    results = []
    with task("small trainings", len(arms)) as advance:
        for arm in arms:
            statuses: dict[str, Status] = {}
            try:
                statuses = _train_arm(arm, wrong, experiment)
            except IlpError as error:
                # what the others say holds all the same
                stage = arm.bench.stage.name
                print(f"ilp: small training of '{stage}' ({arm.name}): {error}", file=sys.stderr)
            results.append(_result(arm, statuses))
            advance(1)
    return results


def _train_arm(
    arm: Arm, wrong: Mapping[str, Sequence[str]], experiment: Experiment
) -> dict[str, Status]:
    """Status of each tested sample and check row after a small training, by id."""
    with tempfile.TemporaryDirectory() as scratch:
        location = arm.bench.parent.model_uri
        for number, stage in enumerate(arm.stages):
            folder = Path(scratch) / f"{number}-{stage.name}"
            train_into(experiment, stage, location, folder)
            location = str(folder)
        return _score([*arm.bench.tested, *arm.bench.checks], wrong, location, experiment)


def _result(arm: Arm, statuses: Mapping[str, Status]) -> ArmResult:
    """What an arm taught; `statuses` are by sample id, of an arm that failed there are none."""
    bench = arm.bench
    learned = [sample for sample in bench.checks if statuses.get(sample.id) == "learned"]
    return ArmResult(
        stage=bench.stage.name,
        name=arm.name,
        rows=len(arm.stages[-1].samples),
        steps=arm.steps,
        taught=len(learned) / max(1, len(bench.checks)),
        statuses={sample.id: statuses.get(sample.id, "unscored") for sample in bench.tested},
    )


def _score(
    samples: Sequence[Sample],
    wrong: Mapping[str, Sequence[str]],
    location: str,
    experiment: Experiment,
) -> dict[str, Status]:
    """Status of each sample under the model at `location`, by id."""
    scoring, seed = experiment.scoring, experiment.seed
    options = {sample.id: wrong[sample.id] for sample in samples}
    # not cached: the model is gone in a moment
    judged = score_and_judge(
        samples,
        options,
        {"small": location},
        scoring,
        seed,
        experiment.tokenizer,
        cached=False,
        has_base=False,
    )
    return {verdict.sample_id: verdict.status for verdict in judged.verdicts}
