"""Trainings that did not get anywhere: rate, warm-up, gradients, overflow."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE
from ilp_mlflow.core.training_log import LossCourse, TrainingLog
from ilp_mlflow.core.values import Subject
from ilp_mlflow.data.training_configs.setup import lora_scale
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.diagnosis.faults.optimization.logged_loss import answers_alone
from ilp_mlflow.diagnosis.faults.stage_scores import Movement, stage_movement
from ilp_mlflow.diagnosis.loss_course import (
    course_from_log,
    course_from_signals,
    finite_entries,
    loss_of,
)
from ilp_mlflow.training.checks.optimization import TINY_RATE, TINY_SCALE

MIN_NORMS = 3
"""Gradient norms that a log must have before anything is said of all of them."""
SKIPPED_SHARE = 0.5
"""Share 0..1 of steps with gradients that are not finite from which a training is spoiled; the
scaler of fp16 skips a few at the start of any training until it has found its scale."""
STILL = 0.02
"""A stage stood still when the loss of its rows moved by at most this share 0..1 of itself; a pass
over 48 rows at a usual rate moved theirs by .13 and more (`experiments/training_logs.py`)."""
UNMOVED = 1e-4
"""Nats per token up to which nothing changed at all."""
NOT_FALLEN = 0.9
"""A loss has not fallen that ends above this share of where it began; batches differ by as much."""
SETTLED = 0.5
"""A rate that still rose is not to blame where the loss fell below this share of its beginning and
was not falling any more."""
CLIPPED = 100
"""Gradients are clipped to nearly nothing when all are so many times the bound. Adam divides by the
size of gradients, so this alone is no fault."""
ADAM_EPSILON = 1e-6
"""Below this bound, clipping also stops Adam: gradients vanish beside its epsilon of 1e-8."""
SCALE_FREE = ("adam", "lion", "adafactor", "adagrad", "rmsprop", "lamb", "stable", "apollo", "muon")
"""Parts of the names of optimizers that divide by the size of gradients."""
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
ABSURD = 8.0
"""Nats per token that no text costs a trained model, prompts included; guessing among 3,000 tokens
costs as much."""
CHANGING_THE_LOSS = ("label_smoothing_factor", "neftune_noise_alpha")
"""Settings that raise a logged loss above that of the answers."""


@dataclass(frozen=True)
class StageFacts:
    """What is known of the training of one stage."""

    log: TrainingLog
    """What it logged."""
    course: LossCourse | None
    """How its logged loss went; None where that is not known."""
    movement: Movement | None
    """How far it moved its rows; None where they are not scored."""
    answers_alone: bool = False
    """Whether its loss is known to be the plain one of the rows' answers, and nothing else."""

    @property
    def batch_rows(self) -> float:
        """Rows of an optimizer step; 1 where that is not known."""
        size = self.log.number("per_device_train_batch_size") or self.log.number("train_batch_size")
        return (size or 1) * (self.log.number("gradient_accumulation_steps") or 1)

    @property
    def norms(self) -> list[float]:
        """All logged gradient norms."""
        return [e.grad_norm for e in self.log.kept if e.grad_norm is not None]

    @property
    def rates(self) -> list[float]:
        """All logged learning rates."""
        return [e.learning_rate for e in self.log.kept if e.learning_rate is not None]

    @property
    def stood_still(self) -> bool:
        """Whether neither its rows moved nor its logged loss fell."""
        if self.movement is None or self.movement.moved > STILL * self.movement.before:
            return False
        return self.course is None or self.course.last > NOT_FALLEN * self.course.first

    @property
    def fell(self) -> bool:
        """Whether its logged loss ended clearly below its beginning."""
        return self.course is not None and self.course.last <= NOT_FALLEN * self.course.first


class Explanation(NamedTuple):
    """Why a training did not get anywhere."""

    kind: str
    """Short name, for programs."""
    reason: str
    """What is so, with its figures."""
    change: str
    """What mends it."""


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
                    stops=known.movement is not None and known.movement.moved <= UNMOVED,
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
    if len(norms) < MIN_NORMS or any(norms):
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


def _stood_still(known: StageFacts) -> Explanation | None:
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
    optimizer = str(known.log.settings.get("optim", ""))
    is_scale_free = not optimizer or any(part in optimizer for part in SCALE_FREE)
    if is_scale_free and bound > ADAM_EPSILON:
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


def _rate_too_high(known: StageFacts) -> Explanation | None:
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
    course, optimizer = known.course, str(known.log.settings.get("optim", "adamw"))
    is_usual = not any(part in optimizer for part in SCALE_FREE) or max(known.rates) < HIGH_RATE
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
        start = movement.before if is_absurd else losses[0]
    spread = SPREADS * movement.spread / math.sqrt(known.batch_rows)
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
    if nothing but their answers is known to be in the loss.
    """
    first = finite_entries(known.log)[0]
    if first.step == 1:
        # a batch of easy rows may come first
        return max(loss_of(first), movement.before) if known.answers_alone else loss_of(first)
    return movement.before if known.answers_alone else None


FINDERS: tuple[Callable[[StageFacts], Explanation | None], ...] = (
    _overflow,
    _zero_gradients,
    _long_warmup,
    _stood_still,
    _rate_too_high,
)
"""What explains a training that got nowhere, in the order in which it is asked."""
