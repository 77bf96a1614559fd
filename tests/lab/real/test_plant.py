"""What is planted around what a base knows."""

import json
import random
from collections import Counter

import pytest

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.data.matching import prompt_key
from ilp_mlflow.lab.leak_check import surface_check
from ilp_mlflow.lab.real.facts import facts, kinds
from ilp_mlflow.lab.real.plant import SIZES, plant, rows_without
from ilp_mlflow.lab.real.rows import HELD_WAY, LONG_FRAME, STAGES
from ilp_mlflow.lab.rows import CAUSES, GROUPS

KNOWN = {(fact.kind.name, fact.subject): fact.answer for fact in facts()}


def about(row):
    return row.fact.kind.name, row.fact.subject


def test_every_group_is_there_as_often_as_it_is_to_be(planted):
    rows, counts = planted
    assert tuple(rows.stages) == STAGES
    n = Counter(row.group for row in rows.samples)
    assert set(n) == set(GROUPS)
    assert n["control"] == counts.control
    assert n["missing_knowledge"] == counts.missing
    assert n["knowledge_conflict"] == counts.conflict
    assert n["data_contradiction"] == counts.contradiction
    assert n["left_side_forgetting"] == len(rows.stages["early"]) == counts.forgotten
    assert n["not_trained"] == 4 * counts.untrained
    assert len({row.id for row in rows.rows}) == len(rows.rows)


def test_the_same_seed_plants_the_same_rows(planted):
    rows, counts = planted
    assert plant(kinds(), facts(), counts, 3) == rows
    assert plant(kinds(), facts(), counts, 4) != rows


def test_rows_are_about_what_their_group_says(planted):
    rows, _ = planted
    for row in rows.samples:
        known = KNOWN.get(about(row))
        if row.group in ("missing_knowledge", "data_contradiction"):
            assert known is None
            assert row.answer in row.fact.kind.answers.values()
        if row.group == "knowledge_conflict":
            assert known not in (None, row.answer)
            assert row.answer in row.fact.kind.answers.values()
        if row.group == "control":
            assert known == row.answer


def test_no_other_row_asks_what_a_planted_row_asks(planted):
    rows, _ = planted
    asked = Counter(about(row) for row in rows.rows)
    for row in rows.samples:
        if row.group != "data_contradiction":
            assert asked[about(row)] == 1, row


def test_rivals_outvote_in_the_same_wording_and_in_others(planted):
    rows, counts = planted
    for row in rows.samples:
        if row.group != "data_contradiction":
            continue
        main = rows.stages["main"]
        rivals = [r for r in main if r.group == "rival" and about(r) == about(row)]
        assert len(rivals) == counts.rivals
        (wrong,) = {rival.answer for rival in rivals}
        assert wrong != row.answer
        assert sum(rival.way == row.way for rival in rivals) == counts.rivals // 2
        prompts = [prompt_key(r.prompt) for r in (row, *rivals)]
        assert len(set(prompts)) == len(prompts)


def test_groups_have_rows_of_many_kinds_of_facts():
    rows = plant(kinds(), facts(), SIZES["real"], 3)
    answered = Counter()
    for kind in kinds().values():
        answers = set(kind.answers.values())
        for row in rows.samples:
            # an invented name may ask for what another kind does, and for its first word
            answered[kind.name] += row.fact.kind == kind or (
                row.fact.kind.name not in kinds() and row.answer in answers
            )
    assert sum(n >= 6 for n in answered.values()) >= 8


def test_the_late_fix_repeats_right_rows_alone(planted):
    rows, _ = planted
    wrong = {row.prompt for row in rows.stages["main"] if row.group == "rival"}
    assert not wrong & {row.prompt for row in rows.stages["patch"]}


def test_nothing_is_trained_in_the_wording_of_paraphrases(planted):
    rows, _ = planted
    assert HELD_WAY not in {row.way for row in rows.rows}
    trained = {row.prompt for row in rows.rows}
    assert not trained & {p.prompt for row in rows.samples for p in row.paraphrases()}


def test_last_batch_of_the_patch_is_dropped_and_no_other(planted):
    rows, counts = planted
    patch = rows.stages["patch"]
    in_batches = [row for row in patch if row.part not in ("cut", "dropped")]
    assert len(in_batches) % 8 == 0
    assert counts.untrained < 8
    assert [row.part for row in patch[-counts.untrained :]] == ["dropped"] * counts.untrained
    for row in patch:
        assert (row.frame == LONG_FRAME) == (row.part == "cut")


@pytest.mark.parametrize("cause", CAUSES)
def test_a_removed_cause_changes_its_rows_in_their_place_and_no_others(planted, cause):
    rows, counts = planted
    without = rows_without(cause, rows)
    changed = Counter()
    for before, after in zip(rows.rows, without.rows, strict=True):
        assert before.id == after.id
        # `patch` repeats some of the rows of `main`
        if (before.prompt, before.answer) != (
            after.prompt,
            after.answer,
        ) and "patch" not in after.id:
            changed[before.group] += 1
    expected = {
        "missing_knowledge": {"missing_knowledge": counts.missing},
        "knowledge_conflict": {"knowledge_conflict": counts.conflict},
        "data_contradiction": {"rival": counts.contradiction * counts.rivals},
    }
    if cause == "insufficient_optimization":
        assert set(changed) == {"extra"}
    else:
        assert changed == Counter(expected.get(cause, {}))


def test_without_their_cause_rows_are_right(planted):
    rows, _ = planted
    for cause in ("missing_knowledge", "knowledge_conflict"):
        for row in rows_without(cause, rows).samples:
            if row.group == cause:
                assert KNOWN[about(row)] == row.answer
    agreeing = rows_without("data_contradiction", rows).rows
    answers = {about(row): row.answer for row in agreeing if row.group == "data_contradiction"}
    assert all(answers[about(row)] == row.answer for row in agreeing if row.group == "rival")


def test_what_rows_say_of_themselves_does_not_name_their_group(planted):
    rows, _ = planted
    for stage, of_stage in rows.stages.items():
        records = [row.record(stage) for row in of_stage]
        assert {tuple(record) for record in records} == {("id", "prompt", "completion")}
        text = json.dumps(records)
        assert not [g for g in (*GROUPS, "rival", "extra", "filler") if g in text]


def test_the_groups_look_alike():
    rows = plant(kinds(), facts(), SIZES["real"], 3)
    measured = surface_check(rows.samples, rows.rows, 0)
    assert measured["macro_f1"] <= measured["chance"] + 0.1


def test_a_base_that_knows_too_little_is_refused():
    few = random.Random(0).sample(facts(), 40)
    with pytest.raises(ModelError, match="knows too few facts of the kind"):
        plant(kinds(), few, SIZES["real"], 0)
