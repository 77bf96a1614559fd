"""An interrupted training goes on from its last saved round, to the same weights."""

import pytest
import torch

from ilp_mlflow.core.interfaces import Round, SampleResult
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.training import resume
from ilp_mlflow.training.accounts.exposure_ledger import Pass
from ilp_mlflow.training.resume import RememberedModel, TrainingState
from ilp_mlflow.training.trainer import train_stage
from tests.training.schedules import Adaptive, Remembering
from tests.training.test_trainer import PEFT, stage, weights


def test_a_state_is_read_as_it_was_saved(tmp_path):
    result = SampleResult(0.1, 0.5)
    state = TrainingState(
        rounds=[Round([["a"]], {"a": result}, {})],
        passes=[Pass(0, 1, result)],
        trained_tokens=7,
        remembered=RememberedModel(1, {"w": torch.tensor([0.3])}),
        seconds=1.5,
    )
    (tmp_path / "checkpoint-9").mkdir()
    resume.save_state(state, tmp_path / "checkpoint-9")
    assert [path.name for path in (tmp_path / "checkpoint-9").iterdir()] == [resume.STATE_FILE]
    again = resume.load_state(tmp_path / "checkpoint-9")
    assert (again.rounds, again.passes) == (state.rounds, state.passes)
    assert (again.trained_tokens, again.seconds) == (7, 1.5)
    assert again.remembered.passes == 1
    assert torch.equal(again.remembered.weights["w"], state.remembered.weights["w"])


def test_the_newest_checkpoint_with_a_state_is_taken(tmp_path):
    assert resume.find_saved(tmp_path) is None
    for step in (9, 10, 200):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert resume.find_saved(tmp_path) is None
    # of step 200 the state was not written any more
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}" / resume.STATE_FILE).touch()
    assert resume.find_saved(tmp_path) == tmp_path / "checkpoint-10"
    assert resume.checkpoint_step(tmp_path / "checkpoint-10") == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule", ["shuffled", "sequential", Adaptive(), Remembering(passes=(0, 1))]
)
@pytest.mark.parametrize("after", [3, 5])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    tiny_model, tmp_path, monkeypatch, schedule, after
):
    monkeypatch.setattr(resume, "SAVE_EVERY", 0)
    plan = {"logging_steps": 1, "lr_scheduler_type": "cosine", "num_train_epochs": 4}
    if isinstance(schedule, Remembering):  # it stops, and goes back behind the interruption
        plan |= {"lr_scheduler_type": "constant", "num_train_epochs": 10}
    one = stage(peft={**PEFT, "lora_dropout": 0.2}, training=plan).model_copy(
        update={"schedule": schedule}
    )

    def interrupt(metrics, step):
        if step == after:
            raise KeyboardInterrupt

    whole = train_stage(one, loading.load_model([str(tiny_model)]), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_stage(one, loading.load_model([str(tiny_model)]), tmp_path / "halves", interrupt)
    steps = []
    halves = train_stage(
        one,
        loading.load_model([str(tiny_model)]),
        tmp_path / "halves",
        lambda m, step: steps.append(step),
    )
    assert steps[0] > 1  # it did not begin again
    ours, theirs = weights(halves.loaded.model), weights(whole.loaded.model)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert halves.signals.equals(whole.signals)
    assert halves.tokens == whole.tokens
