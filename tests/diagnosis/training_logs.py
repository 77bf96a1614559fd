"""Hand-made logs of trainings."""

from ilp_mlflow.core.training_log import LogEntry, TrainingLog


def log(losses=(), rates=None, norms=None, per_epoch=None, stage="first", **changes):
    """A log with an entry per step; `per_epoch` entries are a pass over the data."""
    entries = []
    for place, loss in enumerate(losses):
        entries.append(
            LogEntry(
                step=place + 1,
                epoch=(place + 1) / per_epoch if per_epoch else None,
                loss=loss,
                grad_norm=norms[place] if norms else None,
                learning_rate=rates[place] if rates else None,
            )
        )
    values = {"stage": stage, "source": "", "entries": tuple(entries), "steps": len(entries)}
    return TrainingLog(**{**values, **changes})
