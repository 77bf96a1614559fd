"""Trainings that did not get anywhere: rate, warm-up, gradients, overflow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE
from ilp_mlflow.core.training_log import LossCourse
from ilp_mlflow.core.values import Subject
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.diagnosis.faults.optimization.logged_loss import answers_alone
from ilp_mlflow.diagnosis.faults.optimization.rate_too_high import explain_high_rate
from ilp_mlflow.diagnosis.faults.optimization.stage_training import Explanation, StageFacts
from ilp_mlflow.diagnosis.faults.optimization.stood_still import explain_standing_still
from ilp_mlflow.diagnosis.faults.stage_scores import stage_movement
from ilp_mlflow.diagnosis.loss_course import course_from_log, course_from_signals

MIN_NORMS = 3
"""Gradient norms that a log must have before anything is said of all of them."""
SKIPPED_SHARE = 0.5
"""Share 0..1 of steps with gradients that are not finite from which a training is spoiled; the
scaler of fp16 skips a few at the start of any training until it has found its scale."""
SETTLED = 0.5
"""A rate that still rose is not to blame where the loss fell below this share of its beginning and
was not falling any more."""
CHANGING_THE_LOSS = ("label_smoothing_factor", "neftune_noise_alpha")
"""Settings that raise a logged loss above that of the answers."""


def find_optimization_faults(facts: RunFacts) -> list[Fault]:
    """Stages that taught fewer than half of their rows since their training got nowhere.

    They are told from the log of the stage and from how far it moved its rows; a stage without a
    log has none. Where it moved nothing at all, nothing else is looked for in its rows.
    """
    faults = []
    for stage, taught in facts.context.taught.items():
        if taught >= MIN_TAUGHT_SHARE or stage not in facts.logs:
            continue
        log = facts.logs[stage]
        course = course_from_log(log) or _course_of_rows(facts, stage)
        movement = stage_movement(facts.context, stage)
        known = StageFacts(log, course, movement, _has_plain_loss(facts, stage))
        explanation = _explain(known)
        if explanation is not None:
            faults.append(
                Fault(
                    kind=explanation.kind,
                    cause="failed_optimization",
                    reason=explanation.reason,
                    change=explanation.change,
                    subject=Subject(kind="stage", name=stage),
                    samples=tuple(_not_taught(facts, stage)),
                    # where nothing changed at all, nothing can be seen of single rows
                    stops=known.movement is not None and known.movement.is_none,
                )
            )
    return faults


def _has_plain_loss(facts: RunFacts, stage: str) -> bool:
    """Whether the loss of a stage is known to be the plain one of its rows' answers alone."""
    log = facts.logs[stage]
    if not facts.followed or any(log.settings.get(name) for name in CHANGING_THE_LOSS):
        return False
    samples = [s for s in facts.context.samples.values() if s.stage == stage]
    return answers_alone(samples, facts.accounts)


def _course_of_rows(facts: RunFacts, stage: str) -> LossCourse | None:
    """How the losses of a stage's rows went; None where the training was not followed."""
    if facts.context.signals is None:
        return None
    return course_from_signals(facts.context.signals, stage, frozenset(facts.context.samples))


def _not_taught(facts: RunFacts, stage: str) -> list[str]:
    """Ids of the unlearned samples of a stage that it did not teach either."""
    context = facts.context
    place = [checkpoint.name for checkpoint in context.checkpoints].index(stage)
    ids = []
    for id_ in facts.unlearned:
        if context.samples[id_].stage == stage and context.histories[id_][place] != "learned":
            ids.append(id_)
    return ids


def _explain(known: StageFacts) -> Explanation | None:
    """The first of the faults that a training has; None where it has none."""
    for find in FINDERS:
        explanation = find(known)
        if explanation is not None:
            return explanation
    return None


def _overflow(known: StageFacts) -> Explanation | None:
    """Half precision in which gradients overflow, so that steps are skipped."""
    norms = known.norms
    skipped = sum(not math.isfinite(norm) for norm in norms)
    if len(norms) < MIN_NORMS or skipped < SKIPPED_SHARE * len(norms):
        return None
    reason = (
        f"the gradients of {skipped} of {len(norms)} logged steps were not finite, so these steps "
        "were skipped"
    )
    zeros = sum(entry.loss == 0 for entry in known.log.kept)
    if zeros:
        reason += f", and the loss was logged as 0.0 {zeros} times, which stands for no number"
    return Explanation("overflowing_gradients", reason, "train in bf16 or float32 in place of fp16")


def _zero_gradients(known: StageFacts) -> Explanation | None:
    """No trained weight takes part in the loss."""
    norms = known.norms
    moved_nothing = known.movement is not None and known.movement.is_none
    # a few are enough where nothing was moved
    if any(norms) or len(norms) < (1 if moved_nothing else MIN_NORMS):
        return None
    reason = f"the gradient was zero at all of {len(norms)} logged steps"
    if not any(entry.loss for entry in known.log.kept):
        reason += ", and so was the loss: no token was in it"
        change = "see that the answers are in the loss (ilp check)"
    else:
        reason += ": no trained weight takes part in the loss"
        change = (
            "see which weights are trained; with gradient checkpointing, a frozen embedding needs "
            "model.enable_input_require_grads()"
        )
    return Explanation("zero_gradients", reason, change)


def _long_warmup(known: StageFacts) -> Explanation | None:
    """The rate was still rising when the training ended, before the loss had settled."""
    rates = known.rates
    course = known.course
    log = known.log
    is_rising = all(rate < following for rate, following in itertools.pairwise(rates))
    if len(rates) < MIN_NORMS or not is_rising:
        return None
    has_fallen = course is not None and course.last <= SETTLED * course.first
    if has_fallen and course is not None and course.falls is False:
        return None
    reason = (
        f"the learning rate was still rising when the training ended at step {log.steps}, at "
        f"{rates[-1]:.2g}"
    )
    warmup, planned = log.number("warmup_steps"), log.number("max_steps")
    if warmup and warmup >= 1:
        reason += f" (warmup_steps {warmup:g})"
    change = "warm up for a tenth of the steps at most"
    if planned and log.steps < planned:
        reason += f"; {planned:g} steps were planned"
        change = "train all steps that were planned, or warm up for fewer"
    return Explanation("warmup_too_long", reason, change)


FINDERS: tuple[Callable[[StageFacts], Explanation | None], ...] = (
    _overflow,
    _zero_gradients,
    _long_warmup,
    explain_standing_still,
    explain_high_rate,
)
"""What explains a training that got nowhere, in the order in which it is asked."""
