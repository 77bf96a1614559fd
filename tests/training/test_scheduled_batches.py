"""Training in rounds that a schedule of one's own plans, from what became of the samples."""

import pytest
import torch

from ilp_mlflow import PluginError
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.training.trainer import train_stage
from tests.training.schedules import CONSTANT, IDS, SEEN, Planned, Remembering, trained
from tests.training.test_trainer import PEFT, stage, weights


def test_rounds_of_any_length_are_trained_as_planned_and_their_results_are_shown(
    tiny_model, tmp_path
):
    plan = (((IDS[0], IDS[1]), (IDS[0],)), ((IDS[5], IDS[6], IDS[7]),))
    done = trained(tiny_model, tmp_path, Planned(rounds=plan, ask=(IDS[2],)))
    assert [e.exposures for e in done.exposures] == [2, 1, 0, 0, 0, 1, 1, 1]
    assert done.signals["step"].to_pylist() == [1, 1, 2, 3, 3, 3]
    last, _ = SEEN[-1]
    assert [r.batches for r in last.rounds] == list(plan)
    assert [set(r.results) for r in last.rounds] == [set(IDS[:2]), set(IDS[5:])]
    assert [h.steps_left for h, _ in SEEN] == [
        6,
        4,
        3,
    ]  # three passes over eight samples in batches of four
    losses = [m[IDS[2]].loss for _, m in SEEN]
    assert len(set(losses)) == 3  # other samples were trained in between
    assert [r.measured[IDS[2]].loss for r in last.rounds] == losses[:2]


def test_what_a_schedule_looks_at_is_logged_by_subset(tiny_model, tmp_path):
    logged = {}
    schedule = Planned(rounds=(((IDS[0],),), ((IDS[1],),)), ask=(IDS[2], IDS[3]))
    one = stage(peft=PEFT, training=CONSTANT, schedule=schedule)
    train_stage(
        one,
        loading.load_model([str(tiny_model)]),
        tmp_path,
        lambda m, step: logged.setdefault(step, {}).update(m),
    )
    looks = {step: m["loss_of_s"] for step, m in logged.items() if "loss_of_s" in m}
    assert looks == {
        step: pytest.approx(sum(m[i].loss for i in IDS[2:4]) / 2)
        for step, (_, m) in enumerate(SEEN)
    }
    assert all(0 <= m["accuracy_of_s"] <= 1 for m in logged.values() if "accuracy_of_s" in m)


def test_training_ends_where_its_steps_are_used_up(tiny_model, tmp_path):
    done = trained(
        tiny_model, tmp_path, Planned(rounds=(((IDS[0],),) * 5,) * 3), {"num_train_epochs": 1}
    )
    assert done.signals["step"].to_pylist() == [1, 2]


@pytest.mark.slow
def test_a_round_is_of_whole_steps(tiny_model, tmp_path):
    twice = {"gradient_accumulation_steps": 2}
    done = trained(
        tiny_model, tmp_path, Planned(rounds=(((IDS[0],),) * 2, ((IDS[1],),) * 4)), twice
    )
    assert done.signals["step"].to_pylist() == [1, 1, 2, 2, 3, 3]
    with pytest.raises(PluginError, match="3 batches; a round is of whole steps of 2"):
        trained(tiny_model, tmp_path, Planned(rounds=(((IDS[0],),) * 3,)), twice)


@pytest.mark.long
@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (((("stranger",),),), "planned 'stranger', which is not among"),
        ((((),),), "a batch of 0 samples; batches have 1 to 4"),
        (((tuple(IDS[:5]),),), "a batch of 5 samples"),
        (((),), "0 batches"),
    ],
)
def test_a_round_that_cannot_be_trained_is_refused(tiny_model, tmp_path, plan, expected):
    with pytest.raises(PluginError, match=expected):
        trained(tiny_model, tmp_path, Planned(rounds=plan))


def test_a_schedule_may_not_stop_under_a_learning_rate_that_falls(tiny_model, tmp_path):
    with pytest.raises(PluginError, match=r"lr_scheduler_type cosine.*set it to constant"):
        trained(
            tiny_model, tmp_path, Planned(rounds=(((IDS[0],),),)), {"lr_scheduler_type": "cosine"}
        )


@pytest.mark.slow
def test_a_stage_that_stops_ends_with_the_remembered_model(tiny_model, tmp_path):
    ten = {"num_train_epochs": 10}
    back = trained(tiny_model, tmp_path / "a", Remembering(passes=(0, 1, 3)), ten)
    plain = trained(
        tiny_model, tmp_path / "b", Planned(rounds=((tuple(IDS[:4]), tuple(IDS[4:])),) * 3), ten
    )
    ours, theirs = weights(back.loaded.model), weights(plain.loaded.model)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert back.signals == plain.signals  # what was undone is struck off
    assert [e.exposures for e in back.exposures] == [3] * 8
    assert back.tokens > plain.tokens  # but it was paid for
    nothing = trained(tiny_model, tmp_path / "c", Remembering(passes=(0,)), ten)
    assert nothing.signals.num_rows == 0
    assert [e.exposures for e in nothing.exposures] == [0] * 8
