"""Where a training stands after a round, saved so that an interrupted one can go on from there."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from ilp_mlflow.core.interfaces import Round
from ilp_mlflow.training.accounts.exposure_ledger import Pass

if TYPE_CHECKING:
    from ilp_mlflow.training.scheduled_batches import ScheduledBatches

SAVE_EVERY = 60.0
"""Seconds between two times that a training is saved, at least."""
STATE_FILE = "training_state.pt"


@dataclass(frozen=True)
class RememberedModel:
    """The model as it was when the schedule last asked for it to be kept."""

    passes: int
    """Passes in the ledger at that moment."""
    weights: dict[str, torch.Tensor]
    """Trainable weights at that moment, by name."""


@dataclass(frozen=True)
class TrainingState:
    """What a training needs to go on behind a round, besides the trainer's own checkpoint."""

    rounds: list[Round]
    """All rounds that are over."""
    passes: list[Pass]
    """The ledger's passes."""
    trained_tokens: int
    """The ledger's count of tokens."""
    remembered: RememberedModel | None
    """The model that the stage ends with when its schedule stops now."""
    seconds: float
    """Wall time of the training loop so far."""


def save_state(state: TrainingState, checkpoint: Path) -> None:
    """Add `state` to a checkpoint folder that the trainer has written."""
    # renamed into place, so that a file of that name is always a whole one
    torch.save(state, checkpoint / f"{STATE_FILE}.part")
    os.replace(checkpoint / f"{STATE_FILE}.part", checkpoint / STATE_FILE)


def find_saved(folder: Path) -> Path | None:
    """The newest checkpoint in a trainer's folder that a training can go on from, or None."""
    checkpoints = [path.parent for path in folder.glob(f"checkpoint-*/{STATE_FILE}")]
    return max(checkpoints, key=checkpoint_step, default=None)


def load_state(checkpoint: Path) -> TrainingState:
    """The state that was added to a checkpoint folder."""
    # a file that only this program writes, into its own cache
    state: TrainingState = torch.load(checkpoint / STATE_FILE, weights_only=False)
    return state


def checkpoint_step(checkpoint: Path) -> int:
    """The optimizer step of a checkpoint folder, which the trainer puts behind its name."""
    return int(checkpoint.name.rpartition("-")[2])


class SaveRounds(TrainerCallback):
    """Closes a round when its last step is done, and saves there if the last save is long ago."""

    def __init__(self, batches: ScheduledBatches) -> None:
        self.batches, self.last_saved = batches, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the round that this step ends."""
        round_is_over = self.batches.close_round()
        is_due = time.monotonic() - self.last_saved >= SAVE_EVERY
        if round_is_over and is_due and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add to the trainer's checkpoint, which has just been written."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        save_state(self.batches.state(), checkpoint)
        self.last_saved = time.monotonic()
