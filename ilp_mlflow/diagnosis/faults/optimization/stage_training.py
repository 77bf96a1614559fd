"""What is known of the training of one stage, and why it may have got nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ilp_mlflow.core.training_log import LossCourse, TrainingLog
from ilp_mlflow.diagnosis.faults.stage_scores import Movement

HARDLY_MOVED = 0.02
"""A stage stood still when the loss of its rows moved by at most this share 0..1 of itself; a pass
over 48 rows at a usual rate moved theirs by .13 and more (`experiments/training_logs.py`)."""
NOT_FALLEN = 0.9
"""A loss has not fallen that ends above this share of where it began; batches differ by as much."""
SCALE_FREE = ("adam", "lion", "adafactor", "adagrad", "rmsprop", "lamb", "stable", "apollo", "muon")
"""Parts of the names of optimizers that divide by the size of gradients."""


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
    def norms(self) -> list[float]:
        """All logged gradient norms."""
        return [e.grad_norm for e in self.log.kept if e.grad_norm is not None]

    @property
    def rates(self) -> list[float]:
        """All logged learning rates."""
        return [e.learning_rate for e in self.log.kept if e.learning_rate is not None]

    @property
    def is_scale_free(self) -> bool:
        """Whether its optimizer divides by the size of gradients, as Adam, the usual one, does."""
        optimizer = self.log.settings.get("optim") or "adamw"
        return any(part in str(optimizer) for part in SCALE_FREE)

    @property
    def stood_still(self) -> bool:
        """Whether neither its rows moved nor its logged loss fell."""
        if self.movement is None or self.movement.moved > HARDLY_MOVED * self.movement.before:
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
