"""Plans checked, and what is trained of them and of their controls, on hand-made ones."""

import pytest

from ilp_mlflow.mitigation.plans import Trial, checked_plan, count_unchanged, plan_trials
from ilp_mlflow.plugin import Checkpoint, Mitigation, Plan, PluginError, Request, Value
from tests.contexts import context, sample

WHOLE = context(
    [sample(f"{stage}{n}", stage=stage) for stage in ("first", "second") for n in (0, 1)]
)
FIRST, SECOND = WHOLE.stages


def longer(stage, epochs=9):
    return stage.model_copy(update={"training": {**stage.training, "num_train_epochs": epochs}})


def names(trial):
    return [stage.name for stage in trial.stages]


def test_both_start_from_the_last_checkpoint_that_neither_changes():
    plan = Plan(targets=("second0",), stages=(FIRST, longer(SECOND)))
    remedy, control = plan_trials("x", plan, WHOLE)
    assert remedy.start == control.start == WHOLE.checkpoints[1]
    assert (names(remedy), names(control)) == (["second"], ["second"])
    assert remedy.stages[0].training["num_train_epochs"] == 9
    assert "num_train_epochs" not in control.stages[0].training


def test_a_control_that_changes_an_earlier_stage_takes_the_plan_along():
    control = (longer(FIRST), SECOND)
    plan = Plan(targets=("second0",), stages=(FIRST, longer(SECOND)), control=control)
    remedy, control = plan_trials("x", plan, WHOLE)
    assert remedy.start == control.start == WHOLE.checkpoints[0]
    assert names(remedy) == names(control) == ["first", "second"]


def test_where_nothing_is_changed_all_is_trained_again_with_another_seed():
    seeded = FIRST.model_copy(update={"training": {"seed": 7}, "score_every": 5})
    whole = context(WHOLE.samples.values())
    object.__setattr__(whole, "stages", [seeded, SECOND])
    remedy, control = plan_trials("x", Plan(targets=(), stages=(seeded, SECOND)), whole)
    assert remedy == control
    assert remedy.start.name == "base"
    assert [stage.training["seed"] for stage in remedy.stages] == [8, 1]
    assert [stage.score_every for stage in remedy.stages] == [None, None]


def test_stages_behind_the_last_need_a_control():
    third = SECOND.model_copy(update={"name": "third"})
    plan = Plan(targets=("second0",), stages=(FIRST, SECOND, third))
    with pytest.raises(PluginError, match="'x' adds stages behind the last and gives no control"):
        plan_trials("x", plan, WHOLE)
    both = plan.model_copy(update={"control": (FIRST, SECOND, longer(third))})
    remedy, control = plan_trials("x", both, WHOLE)
    assert remedy.start == control.start == WHOLE.checkpoints[2]
    assert names(remedy) == names(control) == ["third"]


def test_a_plan_may_have_fewer_stages_than_its_control():
    remedy, control = plan_trials("x", Plan(targets=(), stages=(FIRST,)), WHOLE)
    assert remedy.start == control.start == WHOLE.checkpoints[1]
    assert (names(remedy), names(control)) == ([], ["second"])


def test_equal_trials_have_equal_names():
    start = Checkpoint(name="base", model_uri="u")
    trial = Trial(start, (FIRST,))
    assert trial.digest == Trial(start, (FIRST,)).digest
    others = [
        Trial(start, (SECOND,)),
        Trial(start, (longer(FIRST),)),
        Trial(start, (FIRST, SECOND)),
        Trial(start.model_copy(update={"model_uri": "v"}), (FIRST,)),
    ]
    assert len({trial.digest, *(other.digest for other in others)}) == 5


def test_stages_are_unchanged_up_to_the_first_that_differs():
    third = FIRST.model_copy(update={"name": "third"})
    assert count_unchanged([FIRST, SECOND], [FIRST, SECOND, third]) == 2
    assert count_unchanged([FIRST, longer(SECOND), third], [FIRST, SECOND, third]) == 1
    assert count_unchanged([longer(FIRST), SECOND], [FIRST, SECOND]) == 0


class Given(Mitigation):
    """Returns what it is given."""

    answer: object = None

    def plan(self, diagnoses, context):
        return self.answer


class Timetable(Value):
    """No schedule."""


def changed(**changes):
    return Plan(targets=("first0",), stages=(FIRST.model_copy(update=changes), SECOND))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([FIRST], "must return a Plan, a Request or None, got list"),
        (Plan(targets=("nobody",), stages=(FIRST,)), "targets 'nobody', which is no sample of the"),
        (Request(targets=("nobody",), wanted={}, reason="r"), "targets 'nobody'"),
        (
            Plan(targets=("first0",), stages=()),
            "plans no stages; return None when there is nothing",
        ),
        (changed(samples=()), "gives stage 'first' no samples; ids are unique, and empty stages"),
        (changed(samples=FIRST.samples[:1] * 2), "gives stage 'first' id 'first0' twice"),
        (changed(validation=FIRST.samples[1:]), "gives stage 'first' id 'first1' twice"),
        (
            changed(schedule=Timetable()),
            "gives stage 'first' a schedule without a method 'next_round'",
        ),
        (
            Plan(targets=(), stages=(FIRST,), control=changed(samples=()).stages),
            "gives stage 'first' no samples",
        ),
    ],
)
def test_what_cannot_be_trained_is_named(answer, message):
    with pytest.raises(PluginError, match=f"'x' {message}"):
        checked_plan("x", Given(answer=answer), [], WHOLE)


def test_what_can_be_trained_is_returned_as_it_is():
    plan = Plan(targets=("first0",), stages=(longer(FIRST), SECOND), control=(FIRST, SECOND))
    assert checked_plan("x", Given(answer=plan), [], WHOLE) is plan
    request = Request(targets=("first0",), wanted={"rows": 3}, reason="r")
    assert checked_plan("x", Given(answer=request), [], WHOLE) is request
    assert checked_plan("x", Given(), [], WHOLE) is None
