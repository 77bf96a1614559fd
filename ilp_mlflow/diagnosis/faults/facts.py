"""What mechanical faults are read from, beside what the causes are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.core.training_log import TrainingLog
from ilp_mlflow.core.values import Stage
from ilp_mlflow.data.held_out import HeldOutRows
from ilp_mlflow.diagnosis.faults.text.last_model import LastModel
from ilp_mlflow.scoring.models.weight_facts import WeightFacts
from ilp_mlflow.scoring.self_check import SelfCheck
from ilp_mlflow.training.accounts.ledger_note import LedgerNote
from ilp_mlflow.training.accounts.row_account import RowAccount


@dataclass(frozen=True)
class RunFacts:
    """All that is known of a run when faults are looked for; what is not known is left out."""

    context: Context
    """Samples, checkpoints, scores, verdicts and the ledger."""
    accounts: Mapping[str, RowAccount] = field(default_factory=dict)
    """What training made of each row, by sample id; of models trained elsewhere, what the last
    checkpoint's template makes of it with the answer in the loss."""
    logs: Mapping[str, TrainingLog] = field(default_factory=dict)
    """What each stage logged, by its name."""
    ledgers: Mapping[str, LedgerNote] = field(default_factory=dict)
    """How far the ledger of each stage goes, by its name, where someone else's trainer was
    followed."""
    held_out: HeldOutRows | None = None
    """The held-out rows against the trained ones; None where there are none."""
    followed: bool = False
    """Whether the training was followed here, so that `accounts` is what was trained."""
    weights: WeightFacts = field(default_factory=WeightFacts)
    """What the weights of the checkpoints show by themselves."""
    self_checks: Sequence[SelfCheck] = ()
    """How the scores of every checkpoint stand to plain passes."""
    last_model: Callable[[], LastModel] | None = None
    """What the files of the last checkpoint say of its tokens; read at the first call."""

    def checkpoint_of(self, stage: Stage) -> str:
        """The checkpoint that a stage led to; the last one where it has none of its own."""
        names = [checkpoint.name for checkpoint in self.context.checkpoints]
        return stage.name if stage.name in names else names[-1]

    @property
    def unlearned(self) -> list[str]:
        """Ids of the unlearned samples, in the order of the file."""
        verdicts = self.context.verdicts
        return [id_ for id_ in self.context.samples if verdicts[id_].status == "unlearned"]
