"""Whether it is known which tokens of a conversation are the assistant's, where all are trained."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.scoring.tokens.encoding import Tokenization
from ilp_mlflow.training.accounts.row_account import training_template
from ilp_mlflow.training.checks.finding import CheckFinding


def check_assistant_turns(
    samples: Sequence[Sample], setup: TrainingSetup, tokenization: Tokenization
) -> list[CheckFinding]:
    """What is wrong with a loss on the assistant's turns: TRL refuses rows or the template.

    Other trainers need no marks in the template; of their rows the last turn alone is counted.
    """
    if setup.loss_on != "assistant turns" or _are_known(samples, tokenization):
        return []
    if setup.trainer in ("TRL", "ilp"):
        return [_refused(samples)]
    if not any(_has_earlier_answers(sample) for sample in samples):
        return []
    return [
        CheckFinding(
            kind="not_read",
            severity="note",
            sentence=f"{setup.trainer} trains earlier turns of the assistant as well; the counts "
            "are of the last one, since the chat template does not mark the others",
        )
    ]


def countable(
    setup: TrainingSetup, samples: Sequence[Sample], tokenization: Tokenization
) -> TrainingSetup:
    """The setup, with the last turn alone in the loss where the others are not known."""
    if setup.loss_on != "assistant turns" or _are_known(samples, tokenization):
        return setup
    return setup.model_copy(update={"loss_on": "answer"})


def _are_known(samples: Sequence[Sample], tokenization: Tokenization) -> bool:
    """Whether the template marks the assistant's tokens, or TRL knows another form that does."""
    if isinstance(samples[0].prompt, str):
        return False
    try:
        training_template(tokenization.tokenizer)
    except ValueError:
        return False
    return True


def _refused(samples: Sequence[Sample]) -> CheckFinding:
    """Why TRL refuses to train."""
    if isinstance(samples[0].prompt, str):
        return CheckFinding(
            kind="no_conversations",
            severity="error",
            sentence="assistant_only_loss is for conversations, and the rows are text: TRL refuses "
            "to train",
            change="leave assistant_only_loss out",
        )
    return CheckFinding(
        kind="no_generation_markers",
        severity="error",
        sentence="assistant_only_loss needs a chat template with {% generation %} markers: the "
        "model's has none, so TRL refuses to train",
        change="leave assistant_only_loss out, or take a template that marks what the assistant "
        "says",
    )


def _has_earlier_answers(sample: Sample) -> bool:
    """Whether a turn of the assistant stands before the last one."""
    if isinstance(sample.prompt, str):
        return False
    return any(turn.role == "assistant" for turn in sample.prompt.turns)
