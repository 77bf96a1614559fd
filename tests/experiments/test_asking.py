"""The experiment that asks a base about planted beliefs, in its smallest form."""

from experiments.real import asking
from ilp_mlflow.lab.real.facts import kinds


def test_every_row_that_is_asked_about_is_counted(tiny_model, capsys):
    counts = asking.measure(str(tiny_model), ["capital"], 0)
    rows = asking.CONFLICTS + asking.INVENTED
    printed = capsys.readouterr().out
    assert printed.count("capital/") == rows - counts["not_asked"]
    assert counts["conflicts_seen"] <= counts["conflicts"] <= asking.CONFLICTS
    assert counts["invented_seen"] <= counts["invented"] <= asking.INVENTED
    assert f"{rows} rows beside {asking.LEARNED} learned ones" in printed


def test_labels_are_wrong_and_learned_rows_are_right():
    learned, asked = asking.plant(kinds()["opposite"], asking.random.Random(3))
    answers = kinds()["opposite"].answers
    assert len(learned) == asking.LEARNED
    assert all(row.completion in answers.values() for row in learned)
    for row in asked:
        assert row.sample.completion in answers.values()
        assert row.sample.completion != row.truth
    assert not {row.id for row in learned} & {row.sample.id for row in asked}
