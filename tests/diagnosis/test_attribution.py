import pytest

from ilp_mlflow.core.values import Evidence, Sample, Subject, Verdict
from ilp_mlflow.diagnosis.attribution import (
    NO_LEDGER_FACTOR,
    attribute,
    cause_shares,
    diagnosis_table,
    discount_without_ledger,
    fate,
)


def verdict(id_, status="unlearned"):
    return Verdict(sample_id=id_, status=status)


def evidence(cause, strength):
    return Evidence(cause=cause, strength=strength, reason="because")


def test_the_strongest_evidence_names_the_cause_and_weak_evidence_none():
    found = attribute(
        [verdict("a"), verdict("b"), verdict("c", "learned")],
        {
            "one": {"a": evidence("x", 0.6), "b": evidence("x", 0.3)},
            "two": {"a": evidence("y", 0.9)},
        },
        {},
    )
    assert [(d.verdict.sample_id, d.cause, d.runner_up) for d in found] == [
        ("a", "y", "x"),
        ("b", None, None),
    ]
    assert set(found[0].evidence) == {"one", "two"}
    assert cause_shares(found, 4) == {"unexplained": 0.25, "y": 0.25}


def test_a_cause_of_somebody_else_comes_behind_those_of_the_order():
    given = {
        "theirs": {
            "a": evidence("length", 1.0),
            "b": evidence("length", 0.6),
            "c": evidence("length", 0.6),
        },
        "others": {"b": evidence("style", 0.9), "c": evidence("length", 0.8)},
        "ours": {"a": evidence("missing_knowledge", 0.5)},
    }
    order = {"missing_knowledge": 60}
    found = attribute([verdict("a"), verdict("b"), verdict("c")], given, order)
    named = [(d.cause, d.strength, d.runner_up) for d in found]
    assert named == [
        ("missing_knowledge", 0.5, "length"),
        ("style", 0.9, "length"),
        ("length", 0.8, None),
    ]


def test_a_cause_without_a_diagnostic_of_its_name_has_the_order_of_the_one_that_found_it():
    given = {
        "late": {"a": evidence("style", 1.0)},
        "early": {"a": evidence("length", 0.6)},
        "other": {"a": evidence("early", 0.7)},
    }
    (found,) = attribute([verdict("a")], given, {"late": 20, "early": 10})
    assert (found.cause, found.runner_up) == ("early", "length")


def test_weak_evidence_does_not_name_even_the_first_cause():
    given = {"first": {"a": evidence("first", 0.4)}, "last": {"a": evidence("last", 0.5)}}
    (found,) = attribute([verdict("a")], given, {"first": 1, "last": 2})
    assert (found.cause, found.strength, found.runner_up) == ("last", 0.5, None)


def test_what_is_said_of_its_stage_names_a_cause_only_where_nothing_is_said_of_the_sample():
    of_stage = evidence("first", 0.9).model_copy(
        update={"subject": Subject(kind="stage", name="sft")}
    )
    given = {"first": {"a": of_stage, "b": of_stage}, "last": {"a": evidence("last", 0.6)}}
    own, alone = attribute([verdict("a"), verdict("b")], given, {"first": 1, "last": 2})
    assert (own.cause, own.runner_up) == ("last", "first")
    assert alone.cause == "first"


def test_the_table_has_a_row_per_sample_and_a_column_per_cause():
    samples = [Sample(id=i, stage="s", prompt="p", completion="c") for i in "ab"]
    verdicts = {"a": verdict("a", "learned"), "b": verdict("b")}
    histories = {"a": ("unlearned", "learned"), "b": ("learned", "unlearned")}
    diagnoses = attribute(list(verdicts.values()), {"one": {"b": evidence("x", 0.6)}}, {})
    found = diagnosis_table(samples, verdicts, histories, ["base", "s"], diagnoses)
    assert found.column_names[:2] == ["sample_id", "cause"]
    rows = [(r["sample_id"], r["cause"], r["x"], r["history"]) for r in found.to_pylist()]
    assert rows == [("b", "x", 0.6, "base+ s-"), ("a", None, None, "base- s+")]


def test_the_table_says_what_the_base_knows_where_it_was_asked():
    samples = [Sample(id=i, stage="s", prompt="p", completion="c") for i in "ab"]
    verdicts = {i: verdict(i) for i in "ab"}
    histories = dict.fromkeys("ab", ("unlearned", "unlearned"))
    asked = evidence("x", 0.6).model_copy(update={"details": {"knowledge": "Unknown"}})
    found = {"one": {"a": evidence("y", 0.9), "b": evidence("y", 0.9)}, "two": {"b": asked}}
    diagnoses = attribute(list(verdicts.values()), found, {})
    table = diagnosis_table(samples, verdicts, histories, ["base", "s"], diagnoses)
    assert table["knowledge"].to_pylist() == [None, "Unknown"]


def test_without_a_ledger_every_cause_but_not_trained_is_less_sure():
    given = {
        "one": {"a": evidence("x", 0.6), "b": evidence("x", 0.5)},
        "two": {"a": evidence("not_trained", 1.0)},
    }
    found = discount_without_ledger(given)
    assert found["one"]["a"] == evidence("x", 0.6 * NO_LEDGER_FACTOR)
    assert found["two"] == given["two"]
    assert [d.cause for d in attribute([verdict("a"), verdict("b")], found, {})] == [
        "not_trained",
        None,
    ]  # b is weak now


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (("unlearned", "unlearned"), "never learned"),
        (("unlearned", "learned", "uncertain", "unlearned"), "lost"),
        (("unlearned", "learned"), "learned"),
        (("learned", "uncertain", "learned"), "learned"),
        (("learned", "unlearned", "learned"), "recovered"),
        (("learned", "uncertain"), "uncertain"),
        (("unscored",), "unscored"),
    ],
)
def test_the_fate_of_a_sample_is_read_from_its_history(statuses, expected):
    assert fate(statuses) == expected
