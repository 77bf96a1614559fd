"""Trainings that moved nothing: an adapter scaled away, clipped gradients, a tiny rate."""

from __future__ import annotations

import math
import statistics

from ilp_mlflow.data.training_configs.setup import lora_scale
from ilp_mlflow.diagnosis.faults.optimization.stage_training import (
    Explanation,
    StageFacts,
)
from ilp_mlflow.training.checks.optimization import TINY_RATE, TINY_SCALE

MIN_NORMS = 3
"""Gradient norms that a log must have before anything is said of all of them."""
CLIPPED = 100
"""Gradients are clipped to nearly nothing when all are so many times the bound. Adam divides by the
size of gradients, so this alone is no fault."""
ADAM_EPSILON = 1e-6
"""Below this bound, clipping also stops Adam: gradients vanish beside its epsilon of 1e-8."""


def explain_standing_still(known: StageFacts) -> Explanation | None:
    """Nothing moved: neither the loss nor the rows."""
    movement = known.movement
    if movement is None or not known.stood_still:
        return None
    moved = f"training moved its rows by {movement.moved:.2g} nats per token"
    if known.course is not None:
        moved += f", and the loss went from {known.course.first:.3g} to {known.course.last:.3g}"
    return (
        _tiny_adapter(known, moved)
        or _clipped(known, moved)
        or _tiny_rate(known, moved)
        or _still_for_no_known_reason(known, moved)
    )


def _tiny_adapter(known: StageFacts, moved: str) -> Explanation | None:
    """The adapter is scaled down so far that what it learns does not count."""
    rank, alpha = known.log.number("r"), known.log.number("lora_alpha")
    if not rank or alpha is None:
        return None
    scale = lora_scale(alpha, rank, bool(known.log.settings.get("use_rslora")))
    if abs(scale) >= TINY_SCALE:
        return None
    reason = f"{moved}: its adapter is scaled by {scale:.2g} (lora_alpha {alpha:g}, r {rank:g})"
    return Explanation("adapter_too_small", reason, f"set lora_alpha to r or twice r ({rank:g})")


def _clipped(known: StageFacts, moved: str) -> Explanation | None:
    """Gradients were cut to nearly nothing, with an optimizer to which their size matters."""
    bound = known.log.number("max_grad_norm")
    norms = [norm for norm in known.norms if math.isfinite(norm)]
    if not bound or len(norms) < MIN_NORMS or min(norms) < CLIPPED * bound:
        return None
    if known.is_scale_free and bound > ADAM_EPSILON:
        return None
    reason = (
        f"{moved}: gradients of norm {statistics.median(norms):.2g} (median) were clipped to "
        f"{bound:g} at every step"
    )
    return Explanation("gradients_clipped", reason, "set max_grad_norm to 1")


def _tiny_rate(known: StageFacts, moved: str) -> Explanation | None:
    """The rate itself was too small to move anything."""
    rates = known.rates
    if not rates or max(rates) > TINY_RATE:
        return None
    reason = f"{moved}: its learning rate was {max(rates):.2g} at most"
    change = "raise the learning rate; usual are 1e-5 for all weights and 2e-4 for an adapter"
    return Explanation("rate_too_low", reason, change)


def _still_for_no_known_reason(known: StageFacts, moved: str) -> Explanation | None:
    """Nothing moved at a rate at which something should; the log does not say why."""
    rates = known.rates
    if not rates or known.course is None:
        return None
    reason = (
        f"{moved}, in {known.log.steps} steps at a learning rate of {max(rates):.2g} at most; what "
        "held it back is not in the log"
    )
    return Explanation("stood_still", reason, _suspects(known))


def _suspects(known: StageFacts) -> str:
    """What to look at where nothing moved: what of it is not known already."""
    suspects = ["too few steps", "weights kept in bf16, in which small steps are rounded away"]
    if known.log.number("max_grad_norm") is None:
        suspects.append("max_grad_norm")
    return f"look at: {', '.join(suspects)}"
