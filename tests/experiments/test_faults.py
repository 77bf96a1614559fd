"""The scripts that measure what is found of planted faults, in their smallest form."""

import json
import math

import pytest

from experiments.faults import rows, runs


def test_a_row_of_each_kind_is_planted_and_its_id_tells_nothing():
    records, planted = rows.plant(3)
    assert [record["id"] for record in records] != sorted(planted)
    assert sorted(planted) == sorted(record["id"] for record in records)
    for kind in rows.KINDS:
        assert list(planted.values()).count(kind) == rows.PER_KIND


def test_recall_and_precision_are_of_unlearned_rows():
    confusion = [
        ["cut_off", "cut", 3],
        ["cut_off", "learned", 1],
        ["cut_off", "unexplained", 1],
        ["", "cut", 1],
        ["end_cut", "learned", 2],
    ]
    table = rows.scores([{"confusion": confusion}])["cut_off"]
    assert table == {"unlearned": 4, "learned": 1, "recall": 0.75, "precision": 0.75}
    assert math.isnan(rows.scores([{"confusion": confusion}])["end_cut"]["recall"])


def test_every_finding_counts_for_the_precision_of_runs():
    results = [
        {"run": "idle", "expected": "idle_adapter", "found": ["idle_adapter", "cut_off"]},
        {"run": "full", "expected": "", "found": ["cut_off"]},
        {"run": "full", "expected": "", "found": []},
    ]
    assert runs.scores(results) == {
        "faults": 1,
        "recall": 1.0,
        "precision": 1 / 3,
        "healthy": 2,
        "healthy with findings": 1,
    }


def test_what_is_true_of_a_planted_run_as_well_is_no_false_finding():
    found = ["rows_in_no_batch", "insufficient_optimization"]
    few_steps = {"run": "few_steps", "expected": "rows_in_no_batch", "found": found}
    assert runs.scores([few_steps])["precision"] == 1.0
    # of another run it is not
    assert runs.scores([few_steps | {"run": "idle"}])["precision"] == 0.5


@pytest.mark.long
def test_planted_rows_are_measured(store, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["rows", "--seeds", "3", "--epochs", "1"])
    rows.main()
    document = json.loads(capsys.readouterr().out)
    assert set(document["kinds"]) == set(rows.KINDS)


@pytest.mark.long
def test_planted_runs_are_measured(store, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["runs", "--seeds", "3", "--only", "full,idle"])
    runs.main()
    document = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in document["runs"]] == ["full", "idle"]
