"""Which samples are tested, and what their small trainings are made of."""

import pytest

from ilp_mlflow.core.values import Diagnosis, Evidence, Exposure, Verdict
from ilp_mlflow.diagnosis.causes.data_contradiction import ContradictionDetails
from ilp_mlflow.diagnosis.causes.not_trained import NotTrainedDetails
from ilp_mlflow.mitigation.confirm.bench import CHECKS, choose_tested, plan_benches
from ilp_mlflow.mitigation.confirm.removals import CONTROL, plan_arms
from ilp_mlflow.mitigation.confirm.verdict import KNOWLEDGE
from tests.contexts import context, sample

LEARNED = ("unlearned", "learned", "learned")
LOST = ("unlearned", "learned", "unlearned")


def diagnosis(id_, cause=None, strength=None, *evidence):
    return Diagnosis(
        verdict=Verdict(sample_id=id_, status="unlearned"),
        cause=cause,
        strength=strength,
        evidence={e.cause: e for e in evidence},
    )


def contradicted_by(*rows, sure=0.9):
    details = ContradictionDetails(rows=rows, same_question=sure)
    return Evidence(cause=details.cause, strength=sure, reason="r", details=details)


def untrained(fault):
    return Evidence(
        cause="not_trained", strength=1, reason="r", details=NotTrainedDetails(fault=fault)
    )


def world():
    """A stage of 60 learned rows and a few unlearned ones, and a stage behind it that lost one."""
    rows = [sample(f"plain{n}", f"what is {n}", f" answer {n % 3}") for n in range(60)]
    rows += [sample(f"rival{n}", f"who is it {n}", " Rome") for n in range(4)]
    rows += [sample("voted", "who is it", " Paris")]
    rows += [sample(f"rare{n}", f"zorp for rare{n}", f" {n}") for n in range(3)]
    rows += [sample("alone", "unheard-of", " nothing")]
    rows += [sample("lost", "early", " early")]
    later = [sample(f"later{n}", f"later {n}", f" {n}", stage="second") for n in range(30)]
    histories = {row.id: LEARNED for row in rows if row.id.startswith(("plain", "rival"))}
    histories |= {row.id: LEARNED for row in later} | {"lost": LOST}
    exposures = [
        Exposure(
            sample_id=row.id,
            stage=row.stage,
            exposures=int(row.id != "alone"),
            supervised_tokens=2,
            truncated_tokens=0,
        )
        for row in (*rows, *later)
    ]
    return context([*rows, *later], histories, exposures=exposures)


DIAGNOSES = [
    diagnosis(
        "voted", "data_contradiction", 0.9, contradicted_by(*[f"rival{n}" for n in range(4)])
    ),
    diagnosis("rare0", "missing_knowledge", 0.6),
    diagnosis("alone", "not_trained", 1.0, untrained("never_in_a_batch")),
    diagnosis("lost", "left_side_forgetting", 0.7),
]


def benches():
    first, second = plan_benches(DIAGNOSES, world())
    return first, second


def arms(bench):
    return {arm.name: arm for arm in plan_arms(bench)}


def test_of_each_cause_the_least_sure_are_tested():
    given = [diagnosis(f"a{n}", "data_contradiction", n / 10) for n in range(5)]
    given += [diagnosis(f"u{n}") for n in range(3)]
    given += [diagnosis("x", "a_cause_of_a_plugin", 0.5)]
    ids = {d.verdict.sample_id for d in choose_tested(given, 2)}
    assert ids == {"a0", "a1", "u0", "u1"}
    assert len(choose_tested(given, 100)) == 8


def test_a_sample_is_tested_in_its_stage_and_a_forgotten_one_where_it_was_lost():
    first, second = benches()
    assert [s.id for s in first.tested] == ["voted", "rare0", "alone"]
    assert [s.id for s in second.tested] == ["lost"]
    assert (first.parent.name, second.parent.name) == ("base", "first")
    assert second.overwritten == {"lost"}


def test_the_small_training_has_all_that_matters_and_learned_rows_in_file_order():
    first, _ = benches()
    ids = [row.id for row in first.stage.samples]
    everything = [row.id for row in first.original.samples]
    assert ids == [id_ for id_ in everything if id_ in set(ids)]
    for needed in ("voted", "rival0", "rare0", "rare1", "rare2", "alone"):
        assert needed in ids
    assert len(first.checks) == CHECKS
    assert {s.id for s in first.checks}.isdisjoint(s.id for s in first.tested)
    assert first.stage.visits == first.original.visits


def test_the_control_is_trained_as_it_was():
    first, _ = benches()
    control = arms(first)[CONTROL]
    (stage,) = control.stages
    assert not control.removed_for
    # what was in no batch is in none now
    assert {row.id for row in first.stage.samples} - {row.id for row in stage.samples} == {"alone"}
    assert stage.training == first.stage.training


@pytest.mark.parametrize(
    ("name", "removed_for"),
    [
        ("data_contradiction", {"voted"}),
        ("not_trained", {"alone"}),
        ("insufficient_optimization", {"rare0"}),
        (KNOWLEDGE, {"voted", "rare0", "alone"}),
    ],
)
def test_each_removal_is_told_for_whom_it_is(name, removed_for):
    first, _ = benches()
    found = arms(first)[name].removed_for
    # `voted` shares its words with its rivals only, and `alone` shares none
    assert found == removed_for


def test_a_removal_changes_what_it_removes_and_nothing_else():
    first, second = benches()
    made = arms(first)
    control = [row.id for row in made[CONTROL].stages[0].samples]
    agreeing = made["data_contradiction"].stages[0].samples
    assert [row.id for row in agreeing] == control
    answers = {row.id: row.answer for row in agreeing}
    # the rivals answer as the sample does, and everybody else as before
    before = {row.id: row.answer for row in made[CONTROL].stages[0].samples}
    assert {answers[id_] for id_ in control if id_.startswith("rival")} == {answers["voted"]}
    assert {i: a for i, a in answers.items() if not i.startswith("rival")} == {
        i: a for i, a in before.items() if not i.startswith("rival")
    }
    repaired = [row.id for row in made["not_trained"].stages[0].samples]
    assert [id_ for id_ in repaired if id_ != "alone"] == control
    often = [row.id for row in made["insufficient_optimization"].stages[0].samples]
    # no tested sample is trained more often: that would teach it by rote
    assert {id_.split("~")[0] for id_ in often if "~" in id_} == {"rare1", "rare2"}
    reading, stage = made[KNOWLEDGE].stages
    assert [row.id for row in stage.samples] == control
    assert {row.completion for row in reading.samples} >= {"who is it Paris", "zorp for rare0 0"}
    rehearsing = arms(second)["left_side_forgetting"].stages[0].samples
    assert [row.stage for row in rehearsing if row.id == "lost"] == ["first"]
    assert KNOWLEDGE not in arms(second)


def test_rows_that_hardly_ask_the_same_are_left_where_they_are():
    faint = [diagnosis("voted", None, None, contradicted_by("rival0", sure=0.1))]
    (bench,) = plan_benches(faint, world())
    assert not bench.rivals
    assert "data_contradiction" not in arms(bench)


def test_a_tested_sample_that_contradicts_another_is_not_judged_by_that_training():
    both = [
        diagnosis("voted", "data_contradiction", 0.9, contradicted_by("rare0")),
        diagnosis("rare0", "data_contradiction", 0.9),
    ]
    (bench,) = plan_benches(both, world())
    arm = arms(bench)["data_contradiction"]
    assert (arm.removed_for, arm.left_out) == ({"voted"}, {"rare0"})


def test_of_samples_that_contradict_each_other_those_that_outvote_are_to_agree():
    rivals = [f"rival{n}" for n in range(4)]
    given = [diagnosis("voted", "data_contradiction", 0.9, contradicted_by(*rivals))]
    for rival in rivals:
        given.append(diagnosis(rival, "data_contradiction", 0.9, contradicted_by("voted")))
    (bench,) = plan_benches(given, world())
    arm = arms(bench)["data_contradiction"]
    assert (arm.removed_for, arm.left_out) == ({"voted"}, set(rivals))
    assert "voted" in {row.id for row in arm.stages[0].samples}


def test_rows_of_another_form_are_not_rehearsed():
    turns = {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}],
    }
    rows = [sample("lost", "early", " early"), sample("kept", "k", " k")]
    later = [sample("later", stage="second", **turns)]
    known = context([*rows, *later], {"lost": LOST, "kept": LEARNED, "later": LEARNED})
    (bench,) = plan_benches([diagnosis("lost", "left_side_forgetting", 0.7)], known)
    assert list(arms(bench)) == [CONTROL]
