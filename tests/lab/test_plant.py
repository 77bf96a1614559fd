import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ilp_mlflow.diagnosis.installed_causes import installed_causes
from ilp_mlflow.lab.plant import plant, rows_without, world_without
from ilp_mlflow.lab.rows import (
    CAUSES,
    GROUPS,
    LONG_QUESTIONS,
    PARAPHRASES_PER_ROW,
)
from ilp_mlflow.lab.world import QUESTIONS


def test_a_seed_is_a_plant(planted):
    world, found, counts = planted
    assert plant(world, counts, 3) == found
    assert plant(world, counts, 4) != found


def test_every_group_is_as_large_as_asked(planted):
    world, found, counts = planted
    sizes = Counter(r.group for r in found.samples)
    assert sizes == {
        "control": counts.control,
        "missing_knowledge": len(world.withheld),
        "knowledge_conflict": counts.conflict,
        "data_contradiction": counts.contradiction,
        "left_side_forgetting": counts.forgotten_aliases * counts.rare,
        "insufficient_optimization": counts.rule_aliases * counts.rare,
        "not_trained": 4 * counts.rare,
    }


def test_labels_are_what_the_groups_say(planted):
    world, found, _ = planted
    for row in found.samples:
        right = row.city == world.facts[row.fact]
        assert right == (row.group != "knowledge_conflict")
        assert (row.fact in world.withheld) == (row.group == "missing_knowledge")


def test_a_contradicted_sample_is_outvoted_by_one_wrong_label(planted):
    world, found, counts = planted
    for row in (r for r in found.samples if r.group == "data_contradiction"):
        against = [
            r for r in found.stages["main"] if r.fact == row.fact and r.group == "contradicting"
        ]
        assert len(against) == counts.outvoted
        assert len({r.city for r in against}) == 1
        assert against[0].city != world.facts[row.fact]


def test_no_word_of_a_group_is_rarer_than_another(planted):
    _, found, counts = planted
    often = Counter(r.adjective for r in found.rows)
    assert {often[r.adjective] for r in found.samples} == {counts.rare}


def test_all_groups_ask_in_all_ways_alike(planted):
    _, found, _ = planted
    for group in GROUPS:
        ways = Counter(r.way for r in found.samples if r.group == group)
        rows = sum(ways.values())
        assert abs(sum(ways[w] for w in LONG_QUESTIONS) - rows / 4) <= 1.5
        if group != "not_trained":
            assert max(ways.values()) - min(ways[w] for w in range(len(QUESTIONS))) <= 1


def test_the_fact_of_a_sample_is_its_own(planted):
    """No row of another group settles what a sample asks, and none asks the same in the same words."""
    _, found, _ = planted
    rows = found.rows
    prompts = Counter(r.prompt for r in rows if r.group in GROUPS)
    assert max(prompts.values()) == 1
    asked = {r.prompt for r in rows}
    assert not asked & {p.prompt for r in found.samples for p in r.paraphrases()}
    assert not asked & {r.prompt for r in found.unseen}
    spoilt = {
        r.fact for r in found.samples if r.group in ("missing_knowledge", "knowledge_conflict")
    }
    assert not [r for r in rows if r.fact in spoilt and r.group not in GROUPS]


def test_the_last_batch_of_the_patch_is_the_dropped_rows(planted):
    _, found, counts = planted
    patch = found.stages["patch"]
    trained = [r for r in patch if not (r.way in LONG_QUESTIONS and r.group == "not_trained")]
    assert not [r for r in patch if r.way in LONG_QUESTIONS and r.group != "not_trained"]
    assert len(trained) % 16 == counts.rare
    assert {r.group for r in patch[-counts.rare :]} == {"not_trained"}
    assert len(patch) - len(trained) <= 0.1 * len(patch)


def test_a_file_does_not_tell_the_groups(planted):
    _, found, _ = planted
    for stage, rows in found.stages.items():
        keys = {frozenset(r.record(stage)) for r in rows}
        assert keys == {frozenset({"id", "prompt", "completion", "probes", "paraphrases"})}
        assert {len(r.record(stage)["paraphrases"]) for r in rows} == {PARAPHRASES_PER_ROW}
        text = json.dumps([r.record(stage) for r in rows])
        assert not [group for group in GROUPS if group in text]


def test_removing_a_cause_changes_that_cause_only(planted):
    world, found, _ = planted
    for cause in CAUSES:
        other = rows_without(cause, found, world)
        assert other.samples == found.samples
        assert [r.id for r in other.rows] == [r.id for r in found.rows]
        changed = {a.group for a, b in zip(found.rows, other.rows, strict=True) if a != b}
        assert changed == {
            "data_contradiction": {"contradicting"},
            "insufficient_optimization": {"extra"},
        }.get(cause, set())
    agreeing = rows_without("data_contradiction", found, world)
    assert all(r.city == world.facts[r.fact] for r in agreeing.rows if r.group == "contradicting")


def test_what_the_base_is_told_without_a_cause(planted):
    world, found, _ = planted
    assert world_without("missing_knowledge", found, world) == replace(world, withheld=frozenset())
    agreeing = world_without("knowledge_conflict", found, world)
    assert all(agreeing.facts[r.fact] == r.city for r in found.samples)
    changed = [f for f in world.facts if agreeing.facts[f] != world.facts[f]]
    assert len(changed) == sum(r.group == "knowledge_conflict" for r in found.samples)
    for cause in CAUSES[2:]:
        assert world_without(cause, found, world) == world


def test_what_a_cause_says_of_its_plant_is_what_the_docs_say_of_the_lab():
    text = (Path(__file__).parents[2] / "docs" / "lab.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .* \|$", text, re.MULTILINE))
    plants = {cause.name: cause.plant for cause in installed_causes() if cause.plant}
    assert set(plants) == set(CAUSES)
    assert {cause: rows[cause] for cause in CAUSES} == plants
