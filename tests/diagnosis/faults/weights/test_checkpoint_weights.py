"""What is said of checkpoints by what their weights show; real ones are in tests/test_faulty_checkpoints.py."""

import pytest

from ilp_mlflow import Score
from ilp_mlflow.core.values import Subject
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.weights.checkpoint_weights import (
    find_still_checkpoints,
    find_weight_faults,
)
from ilp_mlflow.scoring.models.compared_weights import Comparison
from ilp_mlflow.scoring.models.weight_facts import Copy, WeightFacts
from tests.contexts import context, sample

NAMES = ("base", "first", "second")
LOST = ("unlearned", "learned", "unlearned")
NEVER = ("unlearned", "unlearned", "unlearned")


def scores(id_, logprobs, names=NAMES):
    pairs = zip(names, logprobs, strict=True)
    return [Score(sample_id=id_, checkpoint=name, tokens=4, logprob=p) for name, p in pairs]


def faults(histories, weights=None, logprobs=None, names=NAMES, **facts):
    """Faults of a run with rows of the stage `first` alone."""
    samples = [sample(id_) for id_ in histories]
    rows = []
    for id_ in histories:
        rows += scores(id_, (logprobs or {}).get(id_, range(len(names))), names)
    known = context(samples, histories=histories, scores=rows, checkpoints=names)
    known_facts = RunFacts(known, weights=weights or WeightFacts(), **facts)
    return [*find_weight_faults(known_facts), *find_still_checkpoints(known_facts)]


def copy(relation="lost", **fields):
    compared = {"tensors": 9, "changed": 4, "error": 0.2, "change": 0.3, "dtype": "float32"}
    comparison = Comparison(relation=relation, **(compared | fields.pop("compared", {})))
    return Copy(
        checkpoint="second",
        source="first",
        holds=fields.pop("holds", "first"),
        comparison=fields.pop("comparison", comparison),
        **fields,
    )


@pytest.mark.parametrize(
    ("made", "what", "change"),
    [
        (copy("tied", compared={"lost": ("embed",)}), "embed is not what it was", "untie"),
        (copy("lost", compared={"lost": ("a", "b")}), "2 of the 4 tensors", "merge and save"),
        (copy("base"), "all of the 4 tensors", "merge_and_unload"),
        (copy("quantised"), "differ by up to 20.0% of their size", "16 bits"),
        (copy("scaled", compared={"held": 0.5}), "only 50% of what 'first' changed", "lora_alpha"),
        (copy("scaled", compared={"held": 2.0}), "is in it 2 times", "once"),
        (copy("other_base"), "on another base", "the base that it was trained on"),
        (copy("same", holds="base"), "the weights of 'base', without 'first'", "merge 'first'"),
        (copy("same", settings=("eps 1 (2)",)), "config.json has eps 1 (2)", "config.json"),
        (copy("same", compared={"dtype": "float16"}), "rounded to float16", "float32"),
        (copy(form="awq", comparison=None), "quantised (awq)", "quantise it less"),
    ],
)
def test_rows_that_a_copy_lost_are_its_fault(made, what, change):
    (fault,) = faults({"x": LOST, "y": NEVER}, WeightFacts(copies=(made,)))
    assert (fault.kind, fault.cause, fault.samples) == ("faulty_copy", "faulty_checkpoint", ("x",))
    assert fault.subject == Subject(kind="checkpoint", name="second")
    assert fault.stops
    assert fault.reason.startswith(
        "1 row was learned under 'first' and is lost in 'second', which no rows trained: the copy "
        "is at fault, not the training ("
    )
    assert what in fault.reason
    assert what in fault.reasons["x"]
    assert change in fault.change


def test_a_copy_in_other_weights_may_be_trained_on_and_stops_nothing():
    made = copy("other_weights", compared={"apart": 0.4})
    (fault,) = faults({"x": LOST, "y": NEVER}, WeightFacts(copies=(made,)))
    assert (fault.kind, fault.samples, fault.stops) == ("faulty_copy", ("x",), False)
    assert fault.strength < 1
    assert "by 40% of their size or more: it is merged into another base" in fault.reason
    assert "was trained on with other rows" in fault.reasons["x"]
    # one that has learned something was trained
    learned = ("unlearned", "unlearned", "learned")
    assert faults({"x": LOST, "y": learned}, WeightFacts(copies=(made,))) == []


def test_a_copy_is_not_at_fault_for_rows_that_were_never_learned():
    assert faults({"x": NEVER}, WeightFacts(copies=(copy("quantised"),))) == []
    # nor where none is lost
    assert faults({"x": ("unlearned", "learned", "learned")}, WeightFacts(copies=(copy(),))) == []


def test_rows_that_are_lost_in_a_whole_copy_are_not_its_fault():
    whole = copy("same", compared={"error": 0.001})
    (fault,) = faults({"x": LOST}, WeightFacts(copies=(whole,)))
    assert (fault.kind, fault.samples, fault.strength) == ("copy_is_whole", (), 0)
    assert "its weights are not at fault" in fault.reason


def test_a_copy_that_reads_text_otherwise_is_said_whether_rows_are_lost_or_not():
    other = copy("same", compared={"error": 0.0}, reading=("chat template", "end tokens"))
    (fault,) = faults({"x": NEVER}, WeightFacts(copies=(other,)))
    assert "another chat template and end tokens" in fault.reason
    assert fault.samples == ()


@pytest.mark.parametrize(
    ("weights", "kind", "reason"),
    [
        (WeightFacts(idle={"first": "f"}), "idle_adapter", "its adapter does nothing"),
        (WeightFacts(unchanged={"first": "base"}), "unchanged_weights", "those of 'base'"),
    ],
)
def test_checkpoints_that_do_nothing_stop_the_diagnosis_of_their_rows(weights, kind, reason):
    # what the scores say of it is not said again
    still = {"x": (-9.0, -9.0, -9.0)}
    (fault,) = faults({"x": NEVER, "y": ("learned",) * 3}, weights, still | {"y": (-1.0,) * 3})
    assert (fault.kind, fault.samples, fault.stops) == (kind, ("x",), True)
    assert reason in fault.reason
    assert "saved" in fault.change
    (followed,) = faults({"x": NEVER}, weights, still, followed=True)
    # of a training that was followed other faults say why
    assert (followed.cause, followed.stops) == ("failed_optimization", False)
    assert "require gradients" in followed.change


def test_a_stage_that_moved_none_of_its_samples_is_at_fault():
    still = (-9.0, -9.0, -4.0)
    (fault,) = faults({"x": NEVER, "y": NEVER}, logprobs={"x": still, "y": still})
    assert (fault.kind, fault.cause, fault.stops) == ("unmoved_stage", "not_trained", True)
    assert fault.reason == "changed nothing for any of its samples"
    assert fault.samples == ("x", "y")
    assert faults({"x": NEVER, "y": NEVER}, logprobs={"x": still}) == []


def test_a_stage_is_compared_with_the_one_before_and_not_with_its_own_steps():
    names = ("base", "first@9", "first", "second")
    histories = {"x": (*NEVER, "unlearned")}
    assert faults(histories, logprobs={"x": (-9.0, -5.0, -5.0, -4.0)}, names=names) == []


def test_rows_of_an_adapter_that_is_not_below_the_next_one_were_not_forgotten():
    (fault,) = faults({"x": LOST, "y": NEVER}, WeightFacts(apart={"second": "first"}))
    assert (fault.kind, fault.samples, fault.stops) == ("adapter_apart", ("x",), True)
    assert "--checkpoint second=first+FOLDER" in fault.change
    assert faults({"x": NEVER}, WeightFacts(apart={"second": "first"})) == []


def test_embeddings_made_anew_explain_rows_unless_they_are_learned():
    made = WeightFacts(remade={"first": ("lm_head.weight",)})
    noise = dict.fromkeys("xy", (-9.0, -9.5, -9.5))
    (fault,) = faults({"x": NEVER, "y": NEVER}, made, noise)
    assert (fault.kind, fault.samples, fault.stops) == ("remade_embedding", ("x", "y"), True)
    assert "lm_head.weight" in fault.reason
    # a new head that was trained is none
    assert faults({"x": ("unlearned", "learned", "learned"), "y": NEVER}, made) == []


def test_a_head_that_training_took_far_from_a_raw_base_was_not_made_anew():
    made = WeightFacts(remade={"first": ("lm_head.weight",)})
    histories = {"x": NEVER, "y": NEVER}
    learning, noise = (-9.0, -4.0, -4.0), (-9.0, -5.0, -5.0)
    assert faults(histories, made, logprobs=dict.fromkeys("xy", learning)) == []
    (fault,) = faults(histories, made, logprobs=dict.fromkeys("xy", noise))
    assert fault.kind == "remade_embedding"
