"""Trainings that a learning rate too high kept from getting anywhere."""

from __future__ import annotations

import math
import statistics

from ilp_mlflow.core.training_log import LossCourse
from ilp_mlflow.diagnosis.faults.optimization.stage_training import (
    NOT_FALLEN,
    Explanation,
    StageFacts,
)
from ilp_mlflow.diagnosis.faults.stage_scores import Movement
from ilp_mlflow.diagnosis.loss_course import finite_entries, last_pass, loss_of

HIGH_RATE = 1e-2
"""Rates from which a loss that settles high was driven there: usual are 1e-5 to 2e-4 and, for the
smallest models, some 1e-3. Optimizers to which the size of gradients matters have others."""
SETTLING_STEPS = 20
"""Steps before which a loss that hardly falls has not settled: it has not had the time."""
JUMPED = 1.5
"""The loss jumped when it rose above this multiple of where it began."""
SPREADS = 3.0
"""Beside that it must have risen by so many standard deviations of a batch's mean, which is more
than batches differ by, and by MOVED."""
MOVED = 1.0
"""Nats per token from which a loss, or the rows of a stage, moved far."""
WORSE = 1.1
"""Rows came out worse when they lose this many times what they lost before; of healthy trainings
the worst, one pass in the order of the file, came out at 1.01."""
FAR_ABOVE = {"adapter": 2e-3, "weights": 5e-4}
"""Rates ten times as high as usual, of an adapter and of all weights."""
ALIKE = 0.1
"""Share 0..1 by which the loss of the last pass in the log may differ from that of the answers as
they are scored behind it, where both are taken to be the same loss."""
HARDLY_BETTER = 0.7
"""Rows are hardly better that lose more than this share 0..1 of what they lost before."""
ABSURD = 8.0
"""Nats per token that no text costs a trained model, prompts included; guessing among 3,000 tokens
costs as much."""


def explain_high_rate(known: StageFacts) -> Explanation | None:
    """The rows came out worse, the loss jumped, never fell though the rows moved far, or settled
    high at a rate far above the usual."""
    course, movement = known.course, known.movement
    if course is None or movement is None or not known.rates:
        return None
    went = _came_out_worse(course, movement) or _jumped(known, movement)
    is_no_better = movement.after > NOT_FALLEN * movement.before
    if not went and movement.moved >= MOVED and is_no_better and not known.fell:
        went = (
            f"the loss never fell, from {course.first:.3g} to {course.last:.3g} nats per token, "
            f"though its rows moved by {movement.moved:.2g}"
        )
    if not went and _settled_high(known):
        went = f"the loss settled at {course.last:.3g} nats per token and fell no further"
    if not went:
        return None
    rate = max(known.rates)
    reason = f"{went}, at a learning rate of {rate:.2g} at most"
    change = f"lower the learning rate to a tenth, {rate / 10:.2g}, or less"
    return Explanation("rate_too_high", reason, change)


def _settled_high(known: StageFacts) -> bool:
    """Whether the loss stopped to fall far from 0, at a rate that is far above what is usual.

    Virtual tokens are trained at higher rates than weights, so only an adapter of LoRA counts.
    """
    course = known.course
    is_usual = not known.is_scale_free or max(known.rates) < HIGH_RATE
    if course is None or is_usual or known.log.number("r") is None:
        return False
    has_settled = course.falls is False and known.log.steps >= SETTLING_STEPS
    return has_settled and course.last >= MOVED


def _came_out_worse(course: LossCourse, movement: Movement) -> str:
    """That the rows are worse after training, which the log shows, too; "" where they are not.

    Rows that are worse without the log showing it are a fault of the weights.
    """
    is_worse = movement.after > WORSE * movement.before
    if not is_worse or course.last < movement.before:
        return ""
    return (
        f"training made its own rows worse, from {movement.before:.3g} to {movement.after:.3g} "
        f"nats per token, and the logged loss ended at {course.last:.3g}"
    )


def _jumped(known: StageFacts, movement: Movement) -> str:
    """That the loss jumped above its beginning; "" where it did not."""
    entries = finite_entries(known.log)
    losses = [loss_of(entry) for entry in entries]
    if not losses:
        return ""
    start = _loss_at_start(known, movement)
    if start is None:
        # it may have jumped before anything was logged, or the prompt may be in the loss; no text
        # is as improbable as this to a model that finds the answers probable
        is_absurd = losses[0] > ABSURD > 2 * movement.before
        start = movement.before if is_absurd else max(losses[0], movement.before)
    spread = SPREADS * movement.spread / math.sqrt(known.log.batch_rows)
    rise = max(MOVED, spread, (JUMPED - 1) * start)
    high = [loss for loss in losses if loss > start + rise]
    # one batch of odd rows is no jump
    if len(high) < max(1, min(2, len(losses) // 10)):
        return ""
    return (
        f"the loss jumped from {start:.3g} to {max(losses):.3g} nats per token and ended at "
        f"{losses[-1]:.3g}"
    )


def _loss_at_start(known: StageFacts, movement: Movement) -> float | None:
    """The loss before anything was trained; None where it is not known.

    It is that of the first step. Where that was not logged, it is that of the rows before training,
    if nothing but their answers is in the loss.
    """
    first = finite_entries(known.log)[0]
    if first.step == 1:
        # a batch of easy rows may come first
        return max(loss_of(first), movement.before) if known.answers_alone else loss_of(first)
    is_of_answers = known.answers_alone or _seems_of_answers(known, movement)
    return movement.before if is_of_answers else None


def _seems_of_answers(known: StageFacts, movement: Movement) -> bool:
    """Whether a log seems to be of answers: it ends with the loss that they have after training.

    With prompts in it, it may end there by chance, so it counts at a rate far above the usual
    alone, and where the answers are hardly better than before.
    """
    is_adapter = known.log.number("r") is not None
    is_far_above = max(known.rates) >= FAR_ABOVE["adapter" if is_adapter else "weights"]
    if not known.is_scale_free or not is_far_above:
        return False
    if movement.after <= HARDLY_BETTER * movement.before:
        return False
    logged = statistics.fmean(last_pass(known.log))
    return abs(logged - movement.after) <= ALIKE * movement.after
