"""Rates, warm-ups and adapters under which a training gets nowhere, whatever its rows are."""

from __future__ import annotations

import math

from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.training.checks.finding import CheckFinding

TINY_SCALE = 1e-2
"""Adapters scale by alpha/r, usually 1 or 2; one below this adds next to nothing."""
TINY_RATE = 1e-6
"""Rates at or below this move weights of the usual size, some hundredths, by a hundredth of that
in hundreds of steps."""
HUGE_RATE = 0.05
"""At rates from this on, an optimizer that divides by the size of gradients moves every weight by
more than its own size in a step or two."""


def check_optimization(setup: TrainingSetup, rows: int) -> list[CheckFinding]:
    """What of rate, warm-up and adapter keeps a training on so many rows from getting anywhere."""
    return [*_warmup(setup, rows), *_rate(setup), *_scale(setup)]


def planned_steps(setup: TrainingSetup, rows: int) -> int | None:
    """Optimizer steps on one device; None where several rows share a sequence."""
    if setup.max_steps > 0:
        return setup.max_steps
    if setup.packing:
        return None
    return math.ceil(setup.epochs * steps_per_pass(setup, rows))


def steps_per_pass(setup: TrainingSetup, rows: int) -> int:
    """Optimizer steps in which every one of `rows` is seen once, where each is a sequence."""
    return math.ceil(rows / (setup.batch_size * setup.accumulation))


def _warmup(setup: TrainingSetup, rows: int) -> list[CheckFinding]:
    steps = planned_steps(setup, rows)
    # below 1 it is a share of the steps
    if steps is None or setup.warmup_steps < max(steps, 1):
        return []
    return [
        CheckFinding(
            kind="warmup_too_long",
            severity="warning",
            sentence=(
                f"the learning rate rises for {setup.warmup_steps:g} steps, and there are {steps} "
                "on one device: it never comes to its full height"
            ),
            change="warm up for a tenth of the steps at most",
        )
    ]


def _rate(setup: TrainingSetup) -> list[CheckFinding]:
    rate = setup.learning_rate
    if rate is None:
        return []
    if rate <= TINY_RATE:
        return [
            CheckFinding(
                kind="rate_too_low",
                severity="warning",
                sentence=f"the learning rate is {rate:g}: hardly any weight moves at it",
                change="usual are 1e-5 for all weights and 2e-4 for an adapter",
            )
        ]
    if rate >= HUGE_RATE and "sgd" not in setup.optimizer:
        return [
            CheckFinding(
                kind="rate_too_high",
                severity="warning",
                sentence=(
                    f"the learning rate is {rate:g}: every weight moves by more than its own size "
                    "in a step or two"
                ),
                change="usual are 1e-5 for all weights and 2e-4 for an adapter",
            )
        ]
    return []


def _scale(setup: TrainingSetup) -> list[CheckFinding]:
    scale = None if setup.adapter is None else setup.adapter.scale
    if scale is None or abs(scale) >= TINY_SCALE:
        return []
    return [
        CheckFinding(
            kind="adapter_too_small",
            severity="warning",
            sentence=f"what the adapter learns is scaled by {scale:.2g} (alpha/r): next to nothing",
            change="set lora_alpha to r or twice r",
        )
    ]
