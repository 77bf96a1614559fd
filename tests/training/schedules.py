"""Schedules of one's own, and a stage that is trained with one."""

from ilp_mlflow.plugin import Value
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.training.trainer import train_stage
from tests.training.test_trainer import PEFT, stage

CONSTANT = {"lr_scheduler_type": "constant"}
IDS = [s.id for s in stage().samples]
SEEN = []
"""Histories that `Planned` was shown, each with what it measured; empty at the start of a test."""


class Planned(Value):
    """Gives the rounds it was made with, and notes what it is shown in SEEN."""

    rounds: tuple[tuple[tuple[str, ...], ...] | None, ...]
    ask: tuple[str, ...] = ()

    def next_round(self, history):
        SEEN.append((history, history.measure(self.ask)))
        return self.rounds[len(history.rounds)] if len(history.rounds) < len(self.rounds) else None


class Remembering(Value):
    """Five passes; the model behind some of them is remembered."""

    passes: tuple[int, ...]

    def next_round(self, history):
        if len(history.rounds) in self.passes:
            history.keep()
        ids = history.sample_ids
        return None if len(history.rounds) == 5 else [ids[:4], ids[4:]]


class Adaptive(Value):
    """The two samples of the largest loss of the last round, then all."""

    def next_round(self, history):
        ids = sorted(history.sample_ids)
        if history.rounds and len(history.rounds) % 2:
            results = history.rounds[-1].results
            ids = sorted(results, key=lambda i: -results[i].loss)[:2]
        return [ids[n : n + history.batch_size] for n in range(0, len(ids), history.batch_size)]


def trained(tiny_model, folder, schedule, training_=None, **fields):
    planned = stage(peft=PEFT, training=CONSTANT | (training_ or {}), schedule=schedule, **fields)
    return train_stage(planned, loading.load_model([str(tiny_model)]), folder)
