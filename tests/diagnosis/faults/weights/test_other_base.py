"""Trainings that began with another model than the base that is given."""

import pytest

from ilp_mlflow import Score
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.find import find_faults
from ilp_mlflow.diagnosis.faults.optimization.logged_loss import find_loss_gaps
from ilp_mlflow.diagnosis.faults.weights.other_base import find_other_bases
from ilp_mlflow.scoring.forward import NEVER_SAID
from ilp_mlflow.scoring.models.weight_facts import WeightFacts
from ilp_mlflow.training.accounts.row_account import RowAccount
from tests.contexts import context, sample
from tests.diagnosis.training_logs import log

LORA = {"r": 8, "lora_alpha": 16, "train_batch_size": 4}


def facts(
    before,
    after,
    first,
    last,
    prompt=5,
    settings=LORA,
    spread=0.0,
    late=0,
    new_token=False,
    **known,
):
    """A stage whose rows lose `before` and `after` it, and whose log goes from `first` to `last`.

    `late` passes were over before anything was logged; every answer begins with a `new_token`.
    """
    rows = [sample(f"r{place}") for place in range(10)]
    scores = []
    for place, row in enumerate(rows):
        of_row = before + (spread if place % 2 else -spread)
        for name, loss in (("base", of_row), ("first", after)):
            known_gap = NEVER_SAID if new_token and name == "base" else -1.0
            scores.append(
                Score(sample_id=row.id, checkpoint=name, logprob=-5 * loss, tokens=5, gap=known_gap)
            )
    logged = log([first] * 5 + [last] * 15, per_epoch=10, settings=settings)
    if late:
        shift = {"step": 10 * late, "epoch": late}
        entries = tuple(
            e.model_copy(update={k: getattr(e, k) + v for k, v in shift.items()})
            for e in logged.entries
        )
        logged = logged.model_copy(update={"entries": entries})
    accounts = {}
    for row in rows:
        accounts[row.id] = RowAccount(
            sample_id=row.id,
            segments=(),
            prompt_tokens=prompt,
            answer_tokens=5,
            supervised_tokens=5,
            supervised_answer_tokens=5,
            cut_tokens=0,
        )
    context_ = context(rows, None, scores, checkpoints=("base", "first"))
    return RunFacts(context_, accounts, {"first": logged}, **known)


def test_an_adapter_on_another_base_than_its_own_is_told_with_all_four_losses():
    found = facts(before=9.0, after=9.4, first=0.8, last=0.1)
    (fault,) = find_other_bases(found)
    assert (fault.kind, fault.cause, fault.stops) == ("other_base", "faulty_checkpoint", True)
    assert fault.samples == tuple(found.context.samples)
    for loss in ("0.80", "9.00", "0.10", "9.40"):
        assert loss in fault.reason
    # nor is the gap said beside it
    assert [f.kind for f in find_faults(found) if f.kind != "unmoved_stage"] == ["other_base"]


def test_a_whole_model_of_another_base_is_told_and_its_rows_are_not_spoken_for():
    (fault,) = find_other_bases(facts(before=9.0, after=0.1, first=0.8, last=0.1, settings={}))
    assert (fault.samples, fault.stops) == ((), False)
    assert "it was not trained from 'base'" in fault.reason


def test_it_is_less_sure_where_a_prompt_in_the_loss_may_explain_a_low_beginning():
    (fault,) = find_other_bases(facts(before=3.5, after=4.0, first=1.2, last=0.1, prompt=20))
    assert fault.strength < 1
    whole = facts(before=3.5, after=0.1, first=1.2, last=0.1, prompt=20)
    assert find_other_bases(whole) == []


@pytest.mark.parametrize(
    "healthy",
    [
        {"before": 3.0, "after": 0.1, "first": 2.8, "last": 0.1},
        # the weights of another run, on their own base
        {"before": 3.0, "after": 6.0, "first": 2.8, "last": 0.1},
        # a first batch of easy rows
        {"before": 3.0, "after": 4.0, "first": 1.2, "last": 0.1, "spread": 1.5},
        # what was logged first is of the second pass
        {"before": 9.0, "after": 9.4, "first": 0.8, "last": 0.1, "late": 2},
        # the base does not have a token that the trainer added before its first step
        {"before": 100.0, "after": 0.1, "first": 10.3, "last": 0.1, "new_token": True},
        # a full model is put on nothing
        {"before": 3.0, "after": 4.0, "first": 1.2, "last": 0.1, "settings": {}},
    ],
)
def test_what_only_looks_like_another_base_is_none(healthy):
    assert find_other_bases(facts(**healthy)) == []


def test_a_loss_gap_of_an_adapter_says_which_base_it_names():
    named = WeightFacts(named_bases={"first": "Qwen/Qwen3-0.6B"})
    (fault,) = find_loss_gaps(facts(before=3.0, after=6.0, first=2.8, last=0.1, weights=named))
    assert "names 'Qwen/Qwen3-0.6B' as its base" in fault.reason
    assert fault.change.startswith("see first that its base is 'Qwen/Qwen3-0.6B', then that")
