import pyarrow as pa
import pytest

from ilp_mlflow.core.interfaces import Context, Diagnostic, Mitigation, Schedule
from ilp_mlflow.core.values import Checkpoint, Sample, Stage


def stage(name, ids):
    samples = tuple(Sample(id=i, stage=name, prompt="p", completion="c") for i in ids)
    return Stage(name=name, samples=samples)


def context(stages, checkpoints, histories):
    return Context(
        stages=stages,
        checkpoints=[Checkpoint(name=name, model_uri="m") for name in checkpoints],
        samples={s.id: s for stage in stages for s in stage.samples},
        scores=pa.table({}),
        verdicts={},
        histories=histories,
        probe=None,
        asked=frozenset(),
        beliefs=dict,
    )


def test_a_stage_taught_what_is_learned_right_after_it():
    known = context(
        [stage("first", "abc"), stage("second", "d"), stage("empty", "")],
        ["base", "first", "first@5", "second", "empty"],
        {
            "a": ("unlearned", "learned", "learned", "learned", "learned"),
            "b": ("unlearned", "learned", "unlearned", "unlearned", "unlearned"),
            "c": ("learned", "uncertain", "learned", "learned", "learned"),
            "d": ("unlearned", "learned", "learned", "unlearned", "learned"),
        },
    )
    assert known.taught == {"first": 2 / 3, "second": 0.0}


def test_a_stage_without_a_checkpoint_is_left_out():
    known = context([stage("first", "a"), stage("second", "b")], ["base", "second"], {
        "a": ("unlearned", "learned"),
        "b": ("unlearned", "learned"),
    })  # fmt: skip
    assert known.taught == {"second": 1.0}


def test_what_a_stage_taught_is_a_share_of_what_is_scored():
    known = context([stage("first", "abc"), stage("second", "d")], ["base", "first", "second"], {
        "a": ("unlearned", "learned", "learned"),
        "b": ("unlearned", "unlearned", "learned"),
        "c": ("unlearned", "unscored", "learned"),
        "d": ("unlearned", "learned", "unscored"),
    })  # fmt: skip
    assert known.taught == {"first": 1 / 2}


@pytest.mark.parametrize(
    ("base", "method"), [(Diagnostic, "examine"), (Mitigation, "plan"), (Schedule, "next_round")]
)
def test_a_plugin_must_have_the_method_of_its_base(base, method):
    with pytest.raises(TypeError, match=method):
        base()
    kind = type("Whole", (base,), {method: lambda self, *args: None})
    assert getattr(kind(), method)(None, None) is None
