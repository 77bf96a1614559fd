import re

import pytest

from ilp_mlflow.core.training_log import LossCourse
from ilp_mlflow.core.values import (
    Confirmation,
    Diagnosis,
    Evidence,
    Finding,
    Guard,
    Outcome,
    Request,
    Sample,
    Subject,
    Tally,
    Unscored,
    Verdict,
)
from ilp_mlflow.report.html import render_html
from ilp_mlflow.report.sentences import (
    advice_sentences,
    best_mitigation,
    change_sentences,
    confirmation_sentences,
    diagnoses_by_cause,
    diagnosis_sentence,
    finding_sentence,
    leak_sentence,
    mitigation_sentences,
    percent,
    result_sentence,
    unavailable_sentences,
    unscored_sentences,
    weak_stage_sentences,
)
from ilp_mlflow.report.summary import issue_markdown, markdown_summary, terminal_summary
from ilp_mlflow.scoring.verdicts.unscored import group_unscored
from tests.report.test_summary import report


def test_the_sentence_says_how_many_and_where_they_were_lost():
    assert result_sentence(report()) == (
        "1 of 2 samples (50.0%) are unlearned after the last stage; 1 of them had been learned and were lost (1 at two)."
    )


def test_of_a_single_stage_nothing_is_said_of_earlier_ones():
    one = {
        "checkpoints": report().checkpoints[:2],
        "retention": {"one": {"base": 0.0, "one": 0.5}},
        "verdicts": (
            Verdict(sample_id="a", status="unlearned"),
            Verdict(sample_id="b", status="learned"),
        ),
    }
    assert (
        result_sentence(report(**one)) == "1 of 2 samples (50.0%) are unlearned after stage 'one'."
    )


def test_what_is_lost_at_a_step_inside_is_lost_by_its_stage():
    lost = (
        Verdict(sample_id=i, status="unlearned", last_lost=at)
        for i, at in zip("ab", ("two@5", "two"), strict=True)
    )
    assert "2 of them had been learned and were lost (2 at two)" in result_sentence(
        report(verdicts=tuple(lost))
    )


def test_it_says_when_models_were_asked_about_some_samples_only():
    found = tuple(
        Diagnosis(verdict=Verdict(sample_id=i, status="unlearned"), evidence={}) for i in "abc"
    )
    assert "asked about 2 of the 3 unlearned samples" in " ".join(
        unavailable_sentences(report(diagnoses=found, asked=2))
    )
    assert unavailable_sentences(report(diagnoses=found, asked=3)) == []


def test_halves_of_a_percent_are_rounded_up():
    assert [percent(n / 40) for n in (0, 1, 7, 39, 40)] == ["0%", "3%", "18%", "98%", "100%"]


def test_what_was_never_learned_at_all_is_said_to_be_that():
    never = (Verdict(sample_id="a", status="unlearned"), Verdict(sample_id="b", status="learned"))
    assert result_sentence(report(verdicts=never)).endswith(
        "; none of them was learned at an earlier checkpoint."
    )


@pytest.mark.parametrize(
    ("subject", "samples", "expected"),
    [
        (
            Subject(kind="stage", name="patch"),
            12,
            "Stage 'patch': changed nothing (12 unlearned samples).",
        ),
        (
            Subject(kind="checkpoint", name="patch@5"),
            1,
            "Checkpoint 'patch@5': changed nothing (1 unlearned sample).",
        ),
        (Subject(kind="run"), 0, "The run: changed nothing."),
    ],
)
def test_a_finding_says_what_it_is_about_and_how_many_samples_it_speaks_for(
    subject, samples, expected
):
    evidence = Evidence(cause="not_trained", strength=1, reason="changed nothing")
    finding = Finding(subject=subject, evidence=evidence, samples=samples)
    assert finding_sentence(finding) == expected


def diagnosis(id_, cause, strength):
    verdict = Verdict(sample_id=id_, status="unlearned")
    return Diagnosis(verdict=verdict, cause=cause, strength=strength, evidence={})


def test_what_mends_a_cause_is_said_once():
    def diagnosis(id_, change):
        verdict = Verdict(sample_id=id_, status="unlearned")
        return Diagnosis(verdict=verdict, cause="c", change=change)

    same = [diagnosis("a", "label it"), diagnosis("b", "label it")]
    assert change_sentences(same) == ["to mend them: label it"]
    assert change_sentences([*same, diagnosis("c", "")]) == ["to mend 2 of them: label it"]
    assert change_sentences([diagnosis("c", "")]) == []


def test_causes_are_in_order_of_their_samples_and_the_surest_sample_is_first():
    found = report(
        diagnoses=(
            diagnosis("a", None, None),
            diagnosis("b", None, None),
            diagnosis("c", None, None),
            diagnosis("d", "few", 0.9),
            diagnosis("f", "many", 0.6),
            diagnosis("e", "many", 0.6),
            diagnosis("g", "many", 0.8),
        )
    )
    ids = {
        cause: [d.verdict.sample_id for d in diagnoses]
        for cause, diagnoses in diagnoses_by_cause(found).items()
    }
    assert list(ids) == ["many", "few", "unexplained"]
    assert ids == {"many": ["g", "e", "f"], "few": ["d"], "unexplained": ["a", "b", "c"]}
    assert diagnosis_sentence(found.diagnoses, 10) == (
        "7 of 10 samples are unlearned. 3 unexplained, 3 many, 1 few"
    )


def outcome(name, recovered, by_control, control="c"):
    return Outcome(
        mitigation=name,
        run_id="r",
        targets=(),
        recovered=(),
        still=(),
        regressed=(),
        control_run_id=control,
        causes={"k": Tally(unlearned=20, recovered=recovered, by_control=by_control)},
    )


def test_the_best_mitigation_of_a_cause_beats_its_control_beyond_chance():
    lucky, good, better = outcome("lucky", 7, 3), outcome("good", 12, 2), outcome("better", 15, 2)
    alone = outcome("alone", 20, 0, control=None)
    found = report(outcomes=(lucky, good, better, alone))
    best = best_mitigation(found, "k")
    assert (best.outcome, best.tally.recovered) == (better, 15)
    assert best_mitigation(report(outcomes=(lucky, alone)), "k") is None
    assert best_mitigation(found, "another") is None


def test_advice_begins_with_stages_that_taught_little():
    shares = {s: {"base": 0.0, "one": 0.06, "one@5": 0.0, "two": 0.9} for s in ("one", "two")}
    lacking = {"reader": Request(targets=("a",), wanted={"a": 2}, reason="texts wanted")}
    found = report(retention=shares, requests=lacking)
    (weak,) = weak_stage_sentences(found)
    assert weak.startswith("Stage 'one' taught only 6% of its own samples")
    assert "trainer_state.json" in weak
    assert mitigation_sentences(found) == ["reader lacks data: texts wanted."]
    assert advice_sentences(found) == [weak, "reader lacks data: texts wanted."]
    # a fault that stops the diagnosis says itself what to change
    masked = Finding(
        subject=Subject(kind="stage", name="one"),
        evidence=Evidence(cause="not_trained", strength=1, reason="no end"),
        samples=3,
        stops=True,
    )
    assert weak_stage_sentences(report(retention=shares, findings=(masked,))) == []


@pytest.mark.parametrize(
    ("falls", "expected"),
    [
        (True, "train longer or at a higher rate"),
        (False, "hardly falling any more at the end (2, then 1.9 nats per token)"),
        (None, "too little of its loss was logged"),
    ],
)
def test_longer_training_is_advised_only_where_the_loss_was_still_falling(falls, expected):
    shares = {"one": {"base": 0.0, "one": 0.06, "one@5": 0.0, "two": 0.9}}
    course = LossCourse(source="log", first=4.0, before=2.0, last=1.9, falls=falls)
    (weak,) = weak_stage_sentences(report(retention=shares, loss_courses={"one": course}))
    assert expected in weak
    assert ("train longer" in weak) == bool(falls)


def test_few_steps_are_said_in_place_of_a_course_that_they_do_not_show():
    shares = {"one": {"base": 0.0, "one": 0.0, "one@5": 0.0, "two": 0.9}}
    course = LossCourse(source="log", first=9, before=8.5, last=8.4, falls=False, steps=3)
    (weak,) = weak_stage_sentences(report(retention=shares, loss_courses={"one": course}))
    assert weak.startswith("Stage 'one' taught none of its own samples")
    assert "had only 3 optimizer steps (8.5, then 8.4 nats per token)" in weak
    assert "hardly falling" not in weak
    enough = course.model_copy(update={"steps": 300})
    (weak,) = weak_stage_sentences(report(retention=shares, loss_courses={"one": enough}))
    assert "hardly falling" in weak


def test_nobody_is_told_to_train_longer_by_a_log_that_is_not_of_these_rows():
    shares = {"one": {"base": 0.0, "one": 0.06, "one@5": 0.0, "two": 0.9}}
    course = LossCourse(source="log", first=4.0, before=0.002, last=0.001, falls=True)
    gap = Finding(
        subject=Subject(kind="checkpoint", name="one"),
        kind="scored_is_not_trained",
        evidence=Evidence(cause="faulty_checkpoint", strength=1, reason="8 against 0"),
        samples=0,
    )
    found = report(retention=shares, loss_courses={"one": course}, findings=(gap,))
    (weak,) = weak_stage_sentences(found)
    assert "train longer" not in weak


def test_a_higher_rate_is_advised_only_where_a_jump_would_have_shown():
    shares = {"one": {"base": 0.0, "one": 0.06, "one@5": 0.0, "two": 0.9}}
    course = LossCourse(source="log", first=9.0, before=2.0, last=1.0, falls=True, from_start=False)
    (weak,) = weak_stage_sentences(report(retention=shares, loss_courses={"one": course}))
    assert "train longer" in weak
    assert "higher rate" not in weak


def test_a_weak_stage_with_a_fault_is_not_told_to_be_trained_longer():
    shares = {"one": {"base": 0.0, "one": 0.06, "one@5": 0.0, "two": 0.9}}
    course = LossCourse(source="log", first=4.0, before=2.0, last=1.0, falls=True)
    evidence = Evidence(cause="failed_optimization", strength=1, reason="the loss jumped")
    subject = Subject(kind="stage", name="one")
    fault = Finding(subject=subject, kind="rate_too_high", evidence=evidence, samples=3)
    found = report(retention=shares, loss_courses={"one": course}, findings=(fault,))
    assert "train longer" not in "".join(weak_stage_sentences(found))
    other = fault.model_copy(update={"subject": Subject(kind="stage", name="two")})
    found = report(retention=shares, loss_courses={"one": course}, findings=(other,))
    assert "train longer" in "".join(weak_stage_sentences(found))


def spoiled_report(**changes):
    """Two of three samples without a score after the last stage, one of them without any before."""
    verdicts = (
        Verdict(sample_id="a", status="unlearned"),
        Verdict(sample_id="b", status="unscored", reason="not a number"),
        Verdict(sample_id="c", status="unscored", reason="120 tokens"),
    )
    shares = {"base": None, "one": 1.0, "one@5": 0.5, "two": 0.0}
    counts = {"base": 3, "one": 0, "one@5": 1, "two": 2}
    given = {
        "verdicts": verdicts,
        "retention": {"one": shares},
        "unscored_by_stage": {"one": counts},
        "recognition_unscored": {"base": 0, "two": 2},
        **changes,
    }
    return report(**given)


def test_shares_are_of_what_is_scored_and_the_rest_is_said_beside_them():
    found = spoiled_report()
    assert result_sentence(found).startswith(
        "1 of 1 scored samples (100.0%) are unlearned after checkpoint 'two' and 2 could not be scored"
    )
    first, second = unscored_sentences(found)
    assert first.startswith(
        "2 of 3 samples are unscored after checkpoint 'two' (1 such as 'b': not a number; "
        "1 such as 'c': 120 tokens)"
    )
    assert second == "Shares leave out samples that are not scored: 3 under base, 1 under one@5."
    assert leak_sentence(found).endswith("not scored are left out: 2 under two.")
    assert unscored_sentences(report()) == []
    assert percent(None) == "-"
    groups = group_unscored(found.verdicts)
    assert diagnosis_sentence([], 3, groups).startswith(
        "0 of 1 scored samples are unlearned. 2 are unscored (1 such as 'b': not a number;"
    )


@pytest.mark.parametrize("write", [terminal_summary, markdown_summary, issue_markdown])
def test_every_summary_says_what_is_unscored_and_shows_no_share_of_nothing(write):
    text = write(spoiled_report())
    assert "2 unscored" in text
    assert "not a number" in " ".join(text.split())
    row = next(line for line in text.splitlines() if re.match(r"(\| )?one ", line))
    assert row.replace("|", " ").split() == ["one", "-", "100%", "0%"]
    assert "(0.0%)" not in text


def test_where_nothing_is_scored_nothing_is_said_to_be_learned():
    nothing = spoiled_report().verdicts[1:]
    assert result_sentence(spoiled_report(verdicts=nothing)) == (
        "None of 2 samples could be scored after checkpoint 'two': nothing is known of what was learned."
    )
    assert spoiled_report(verdicts=nothing).unlearned_rate is None
    assert spoiled_report().unlearned_rate == 1.0
    assert spoiled_report(verdicts=()).unlearned_rate is None


def test_a_stage_that_is_not_scored_did_not_teach_little():
    unknown = {"base": 0.0, "one": None, "one@5": 0.1, "two": 0.1}
    assert weak_stage_sentences(spoiled_report(retention={"one": unknown})) == []


def test_the_best_mitigation_of_a_cause_is_none_that_lost_as_many_scores_as_it_recovers():
    def tried(unscored):
        tally = Tally(unlearned=20, recovered=15, by_control=0, unscored=unscored)
        return Outcome(
            mitigation="m",
            run_id="r",
            control_run_id="c",
            targets=(),
            recovered=(),
            still=(),
            regressed=(),
            causes={"x": tally},
        )

    assert best_mitigation(report(outcomes=(tried(14),)), "x")
    assert best_mitigation(report(outcomes=(tried(15),)), "x") is None
    empty = Tally(unlearned=0, recovered=0, by_control=0, unscored=9)
    nothing = tried(0).model_copy(update={"causes": {"x": empty}})
    assert best_mitigation(report(outcomes=(nothing,)), "x") is None


def test_the_table_of_mitigations_says_what_is_unscored_where_something_is():
    outcome = report().outcomes[0]
    assert not re.search(r"mitigation .* unscored", terminal_summary(report()))
    reasons = (Unscored(samples=7, reason="r", example="a"),)
    spoiled = outcome.model_copy(update={"unscored_reasons": reasons})
    text = terminal_summary(report(outcomes=(spoiled, outcome)))
    assert re.search(r"\nmitigation .* unscored\nm .* 7\nm .* 0$", text)


def test_the_page_shows_what_is_not_known():
    outcome = (
        report()
        .outcomes[0]
        .model_copy(
            update={
                "control_run_id": "c",
                "unscored": ("x", "y"),
                "unscored_reasons": (Unscored(samples=7, reason="r", example="x"),),
                "causes": {
                    "unexplained": Tally(unlearned=0, recovered=0, by_control=0, unscored=4)
                },
                "guard": Guard(right=5, lost=1, lost_by_control=0, unscored=3),
            }
        )
    )
    histories = dict.fromkeys("abc", ("unscored",) * 4)
    samples = {}
    for id_ in "abc":
        samples[id_] = Sample(id=id_, stage="one", prompt="p", completion="c")
    page = render_html(spoiled_report(outcomes=(outcome,), histories=histories), samples)
    for text in ("2 unscored", "3 unscored", "7 unscored", "not known 2", "not a number"):
        assert text in page, text


def tried_out(id_, verdict, cause, by_evidence):
    confirmation = Confirmation(verdict=verdict, by_evidence=by_evidence, reason="as was seen")
    return Diagnosis(
        verdict=Verdict(sample_id=id_, status="unlearned"), cause=cause, confirmation=confirmation
    )


def test_what_small_trainings_said_is_counted_and_changes_are_named():
    assert confirmation_sentences(report()) == []
    tried = (
        tried_out("1", "confirmed", "a", "a"),
        tried_out("2", "corrected", "a", "b"),
        tried_out("3", "corrected", "a", None),
        tried_out("4", "undecided", "b", "b"),
    )
    found = report(diagnoses=tried)
    (sentence,) = confirmation_sentences(found)
    assert "4 samples" in sentence
    assert "1 confirmed, 2 corrected, 1 undecided" in sentence
    assert "1 from b to a, 1 from unexplained to a" in sentence
    assert sentence in " ".join(terminal_summary(found).split())
    assert sentence in markdown_summary(found)
    assert sentence in issue_markdown(found)


def test_an_overridden_cause_is_told_with_that_of_the_evidence():
    corrected = tried_out("2", "corrected", "a", "b").confirmation.sentence
    assert corrected == "as was seen (by the evidence alone: b)"
    undecided = tried_out("4", "undecided", "b", "b").confirmation.sentence
    assert undecided.startswith("undecided")
