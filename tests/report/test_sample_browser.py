import json

from ilp_mlflow.core.values import Checkpoint, Diagnosis, Evidence, Report, Sample, Verdict
from ilp_mlflow.report.sample_browser import LONG, OTHERS, browser_data, shorten


def report(statuses, evidence=()):
    verdicts = tuple(Verdict(sample_id=str(i), status=status) for i, status in enumerate(statuses))
    open_ = [v for v in verdicts if v.status == "unlearned"]
    samples = {
        v.sample_id: Sample(
            id=v.sample_id, stage="s", prompt=f"ask {v.sample_id}", completion="say"
        )
        for v in verdicts
    }
    found = Report(
        name="x",
        run_id="r",
        preset="default",
        checkpoints=(Checkpoint(name="base", model_uri="u"), Checkpoint(name="s", model_uri="u")),
        retention={},
        recognition={},
        verdicts=verdicts,
        histories={v.sample_id: ("learned", v.status) for v in verdicts},
        diagnoses=tuple(
            Diagnosis(verdict=v, cause="b", runner_up="a", evidence=dict(evidence)) for v in open_
        ),
        outcomes=(),
        asked=1,
    )
    return found, samples


def listed(*given, **options):
    text, number = browser_data(*given, ["b", "unexplained"], **options)
    return json.loads(text), number


def test_samples_that_are_not_learned_come_first_and_the_rest_as_far_as_there_is_room():
    given = report(["learned"] * 200 + ["unlearned", "uncertain", "unscored"])
    data, number = listed(*given)
    assert number == 203
    assert [row[0] for row in data["rows"]][:4] == ["200", "201", "202", "0"]
    text, fewer = browser_data(*given, ["b", "unexplained"], limit=3000)
    assert 3 < fewer < 203
    assert len(text.encode()) <= 3000
    assert [row[0] for row in json.loads(text)["rows"]] == [row[0] for row in data["rows"]][:fewer]


def test_evidence_for_the_cause_comes_first_and_brings_the_rows_it_names():
    rows = [str(i) for i in range(1, 9)]
    evidence = {
        "one": Evidence(cause="a", strength=1.0, reason="next"),
        "two": Evidence(cause="b", strength=0.6, reason="it", details={"rows": [*rows, "gone", 7]}),
        "three": Evidence(cause="c", strength=0.01, reason="faint"),
    }
    data, _ = listed(*report(["unlearned"] + ["learned"] * 9, evidence))
    (row,) = [row for row in data["rows"] if row[0] == "0"]
    told = row[-1]
    assert [(cause, reason, number) for cause, _, reason, _, number in told] == [
        ("b", "it", 8),
        ("a", "next", 0),
    ]
    assert [data["others"][i][:2] for i in told[0][3]] == [[r, f"ask {r}"] for r in rows[:OTHERS]]


def test_a_cut_text_says_how_much_is_missing():
    assert shorten(" short\x00 ") == "short\ufffd"
    assert shorten("x" * (LONG + 1500)) == "x" * LONG + " ... (1,500 more characters)"
