import json

from ilp_mlflow.core.values import Checkpoint, Diagnosis, Evidence, Report, Sample, Verdict
from ilp_mlflow.report.sample_browser import (
    MAX_CHARACTERS,
    MAX_OTHERS,
    MAX_TOKENS,
    browser_data,
    shorten,
)
from ilp_mlflow.report.token_view import TokenView
from ilp_mlflow.training.accounts.row_account import RowAccount, Segment


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


def account(key):
    return RowAccount(
        sample_id=key,
        segments=(
            Segment(text=f"<|user|>ask {key}", kind="prompt"),
            Segment(text="say<|end|>", kind="supervised"),
        ),
        prompt_tokens=3,
        answer_tokens=2,
        supervised_tokens=2,
        supervised_answer_tokens=2,
        cut_tokens=0,
        dropped=("messages[0].name: 'x'",),
        end_token="<|end|>",
        end_supervised=True,
        end_stops=True,
    )


def listed(*given, **options):
    text, number = browser_data(*given, ["b", "unexplained"], **options)
    return json.loads(text), number


def test_samples_that_are_not_learned_come_first_and_the_rest_as_far_as_there_is_room():
    given = report(["learned"] * 200 + ["unlearned", "uncertain", "unscored"])
    data, number = listed(*given)
    assert number == 203
    assert [row["id"] for row in data["rows"]][:4] == ["200", "201", "202", "0"]
    text, fewer = browser_data(*given, ["b", "unexplained"], limit=3000)
    assert 3 < fewer < 203
    assert len(text.encode()) <= 3000
    assert [row["id"] for row in json.loads(text)["rows"]] == [row["id"] for row in data["rows"]][
        :fewer
    ]


def test_evidence_for_the_cause_comes_first_and_brings_the_rows_it_names():
    rows = [str(i) for i in range(1, 9)]
    evidence = {
        "one": Evidence(cause="a", strength=1.0, reason="next"),
        "two": Evidence(cause="b", strength=0.6, reason="it", details={"rows": [*rows, "gone", 7]}),
        "three": Evidence(cause="c", strength=0.01, reason="faint"),
    }
    data, _ = listed(*report(["unlearned"] + ["learned"] * 9, evidence))
    (row,) = [row for row in data["rows"] if row["id"] == "0"]
    told = row["diagnosis"]["evidence"]
    assert [(e["cause"], e["reason"], e["others_total"]) for e in told] == [
        ("b", "it", 8),
        ("a", "next", 0),
    ]
    others = [data["others"][place] for place in told[0]["others"]]
    assert [(other["id"], other["prompt"]) for other in others] == [
        (r, f"ask {r}") for r in rows[:MAX_OTHERS]
    ]


def test_a_sample_that_several_name_is_there_once():
    evidence = {"one": Evidence(cause="b", strength=0.9, reason="it", details={"rows": ["2", "3"]})}
    data, _ = listed(*report(["unlearned"] * 2 + ["learned"] * 2, evidence))
    assert [other["id"] for other in data["others"]] == ["2", "3"]
    for row in data["rows"][:2]:
        assert row["diagnosis"]["evidence"][0]["others"] == [0, 1]


def test_a_row_says_what_the_page_shows_of_a_sample():
    evidence = {"one": Evidence(cause="b", strength=0.12345, reason="it")}
    found, samples = report(["learned", "unlearned"], evidence)
    scored = tuple(v.model_copy(update={"margin": -1.239, "reason": "off"}) for v in found.verdicts)
    accounts = {key: account(key) for key in samples}
    scored_report = found.model_copy(update={"verdicts": scored})
    token = {"text": "say", "p": 0.25, "p_base": 0.12345}
    own = TokenView(**token)
    missed = TokenView(**token, first_choice="said", p_first_choice=0.5)
    tokens = dict.fromkeys(samples, (own, missed))
    data, _ = listed(scored_report, samples, accounts=accounts, tokens=tokens)
    unlearned, learned = data["rows"]
    assert unlearned == {
        "id": "1",
        "prompt": "ask 1",
        "answer": "say",
        "stage": 0,
        "fate": data["fates"].index("lost"),
        "history": "+-",
        "reason": "off",
        "margin": -1.24,
        "diagnosis": {
            "cause": 0,
            "runner_up": "a",
            "confirmation": "",
            "evidence": [
                {
                    "cause": "b",
                    "strength": 0.123,
                    "reason": "it",
                    "change": "",
                    "others": [],
                    "others_total": 0,
                }
            ],
        },
        "seen": [
            {"kind": "prompt", "text": "<|user|>ask 1"},
            {"kind": "supervised", "text": "say<|end|>"},
        ],
        "training": "2 of the 2 tokens of its answer in the loss, behind 3 tokens of prompt; the "
        "chat template leaves out messages[0].name: 'x'; it ends with <|end|>, in the loss",
        "tokens": [
            {"text": "say", "p": 0.25, "base": 0.123, "says": None},
            {"text": "say", "p": 0.25, "base": 0.123, "says": "said"},
        ],
    }
    assert (learned["history"], learned["diagnosis"], learned["tokens"]) == ("++", None, [])


def test_a_very_long_answer_is_not_shown_token_by_token():
    found, samples = report(["unlearned"])
    token = TokenView(text="a", p=0.5, p_base=0.5)
    for count, shown in ((MAX_TOKENS, MAX_TOKENS), (MAX_TOKENS + 1, 0)):
        data, _ = listed(found, samples, tokens=dict.fromkeys(samples, (token,) * count))
        assert len(data["rows"][0]["tokens"]) == shown


def test_a_cut_text_says_how_much_is_missing():
    assert shorten(" short\x00 ") == "short\ufffd"
    assert (
        shorten("x" * (MAX_CHARACTERS + 1500))
        == "x" * MAX_CHARACTERS + " ... (1,500 more characters)"
    )
