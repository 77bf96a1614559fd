import pytest
from pydantic import ValidationError

from ilp_mlflow.core import values
from ilp_mlflow.core.values import (
    Diagnosis,
    Evidence,
    Exposure,
    Sample,
    Score,
    Stage,
    Verdict,
    schema,
    to_rows,
    to_table,
)


def test_rows_survive_the_way_through_columns():
    full = Score(
        sample_id="a",
        checkpoint="base",
        logprob=-1.5,
        tokens=3,
        greedy=True,
        option_logprobs=(-1.5, -2.0),
        wrong="x",
    )
    empty = Score(sample_id="b", checkpoint="base", unscored="too long")
    assert to_rows(to_table([full, empty], Score), Score) == [full, empty]


def test_an_empty_table_has_the_schema_of_its_rows():
    assert to_table([], Exposure).schema == schema(Exposure)


def test_values_are_frozen_and_refuse_unknown_fields():
    sample = Sample(id="a", stage="s", prompt="p", completion="c")
    with pytest.raises(ValidationError):
        sample.id = "b"
    with pytest.raises(ValidationError, match="extra"):
        Sample(id="a", stage="s", prompt="p", completion="c", colour="red")


def test_a_nested_value_reloads_its_own_json():
    evidence = {"d": Evidence(cause="x", strength=0.5, reason="r", details={"k": [1]})}
    found = Diagnosis(
        verdict=Verdict(sample_id="a", status="unlearned"), cause="x", evidence=evidence
    )
    assert Diagnosis.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    "kind",
    [v for v in vars(values).values() if isinstance(v, type) and issubclass(v, values.Value)],
)
def test_every_field_has_one_line_of_meaning(kind):
    assert [name for name, field in kind.model_fields.items() if not field.description] == []


def test_strength_is_a_share():
    with pytest.raises(ValidationError):
        Evidence(cause="x", strength=1.1, reason="r")


@pytest.mark.parametrize(
    ("training", "steps", "visits"),
    [
        ({"num_train_epochs": 3}, 6, 3),
        ({"num_train_epochs": 0.5}, 1, 0.5),
        ({"max_steps": 5, "num_train_epochs": 3}, 5, 4),
        (
            {
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 2,
                "num_train_epochs": 2,
            },
            6,
            2,
        ),
    ],
)
def test_steps_and_visits_of_a_stage_go_by_its_options(training, steps, visits):
    samples = tuple(Sample(id=str(n), stage="s", prompt="p", completion="c") for n in range(10))
    stage = Stage(name="s", samples=samples, training=training)
    assert (stage.steps, stage.visits) == (steps, visits)
