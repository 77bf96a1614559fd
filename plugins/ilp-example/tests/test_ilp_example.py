"""All plugins on a context made by hand: no model, no MLflow, no GPU."""

from ilp_example.long_completion import LongCompletion
from ilp_example.passes_tests import PassesTests
from ilp_example.slower import Slower

from ilp_mlflow.plugin import (
    Checkpoint,
    Completion,
    Context,
    Diagnosis,
    Sample,
    Score,
    ScoredRows,
    Stage,
    Verdict,
    to_table,
)


def context(tokens, failed, **training):
    """One stage of samples with so many tokens each, of which the `failed` are unlearned."""
    samples, scores, verdicts, histories = {}, [], {}, {}
    for n, count in enumerate(tokens):
        row = f"row{n}"
        status = "unlearned" if row in failed else "learned"
        samples[row] = Sample(id=row, stage="main", prompt=f"p{n}", completion="c")
        scores.append(Score(sample_id=row, checkpoint="main", tokens=count))
        verdicts[row] = Verdict(sample_id=row, status=status)
        histories[row] = ("unlearned", status)
    return Context(
        stages=[Stage(name="main", samples=tuple(samples.values()), training=training)],
        checkpoints=[Checkpoint(name=name, model_uri="") for name in ("base", "main")],
        samples=samples,
        scores=to_table(scores, Score),
        verdicts=verdicts,
        histories=histories,
        probe=None,
        asked=frozenset(failed),
        beliefs=dict,
    )


def examine(tokens, *failed):
    known = context(tokens, failed)
    return LongCompletion().examine([known.samples[i] for i in failed], known)


def test_long_answers_that_fail_more_often_than_others_are_named():
    evidence = examine([5] * 20 + [40, 40, 5], "row20", "row21", "row22")
    assert set(evidence) == {"row20", "row21"}
    assert all(e.cause == "long_completion" and e.strength > 0.5 for e in evidence.values())
    assert evidence["row20"].reason == (
        "it has 40 tokens; of answers over 5 tokens 2 of 2 are not learned, "
        "by chance it would be 0.3"
    )


def test_long_answers_that_fail_as_often_as_others_are_not_and_a_single_one_is_not():
    tokens = [*range(100)]
    tenth = examine(tokens, *(f"row{n}" for n in range(9, 100, 10)))
    single = examine(tokens, "row99")
    assert {*tenth, *single} == {"row99"}
    assert tenth["row99"].strength < single["row99"].strength < 0.5


UNLEARNED = Verdict(sample_id="row1", status="unlearned")
DIAGNOSES = [Diagnosis(verdict=UNLEARNED, cause="long_completion")]


def test_the_plan_and_its_control_differ_in_the_rate_only():
    known = context([5, 40], ["row1"], learning_rate=1e-3, num_train_epochs=4)
    plan = Slower(times=4).plan(DIAGNOSES, known)
    assert plan.targets == ("row1",)
    assert [s.training for s in plan.stages] == [{"learning_rate": 2.5e-4, "num_train_epochs": 16}]
    assert [s.training for s in plan.control] == [{"learning_rate": 1e-3, "num_train_epochs": 16}]
    assert Slower(cause="another").plan(DIAGNOSES, known) is None


def test_a_stage_that_counts_steps_gets_more_of_them():
    plan = Slower().plan(DIAGNOSES, context([5, 40], ["row1"], max_steps=30))
    assert [s.training for s in plan.stages] == [{"learning_rate": 1e-5, "max_steps": 60}]


def test_code_is_learned_when_its_tests_pass():
    row = Sample(id="a", stage="main", prompt="p", completion="c", metadata={"tests": "assert f()"})
    scores = to_table([Score(sample_id="a", checkpoint="main", tokens=8)], Score)
    for said, status in (("f = lambda: True", "learned"), ("f = lambda: False", "unlearned")):
        rows = ScoredRows(
            "main",
            is_base=False,
            scores=scores,
            samples_by_id={"a": row},
            generate=lambda samples, limits, said=said: [[Completion(said, ended=True)]],
        )
        assert PassesTests().judge(rows).statuses == [status]
