"""What a mitigation did to the planted groups, and what an oracle would diagnose."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ilp_mlflow import Diagnosis, Verdict
from ilp_mlflow.cli import main
from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.values import Evidence
from ilp_mlflow.lab.data_files import Lab
from ilp_mlflow.lab.mitigation_benchmark import all_mitigations, oracle
from ilp_mlflow.lab.rows import CAUSES

SMOKE = Path(__file__).parents[2] / "experiments" / "smoke.yaml"


def test_all_mitigations_are_those_installed_with_sources_of_the_lab():
    options = all_mitigations("smoke")
    assert set(options) == set(plugin_loader.usable("mitigation"))
    assert options["knowledge_augmentation"]["source"]["path"] == "lab:smoke/knowledge.jsonl"
    plugin_loader.configure("mitigation", {"augment_rare": options["augment_rare"]})


def test_an_oracle_names_what_was_planted_and_nothing_else(planted):
    world, rows, _ = planted
    ledger = Evidence(cause="not_trained", strength=1, reason="", details={"exposures": 0})
    diagnoses = [
        Diagnosis(
            verdict=Verdict(sample_id=row.id, status="unlearned"),
            cause="missing_knowledge",
            evidence={"not_trained": ledger},
        )
        for row in rows.rows
    ]
    truth = oracle(diagnoses, Lab(world, rows, 3, Path()))
    groups = {row.id: row.group for row in rows.rows}
    assert len(truth) == len(diagnoses)
    for diagnosis in truth:
        group = groups[diagnosis.verdict.sample_id]
        assert diagnosis.cause == (group if group in CAUSES else None)
    contradicted = next(d for d in truth if d.cause == "data_contradiction")
    against = contradicted.evidence["data_contradiction"].details["rows"]
    fact = next(r.fact for r in rows.rows if r.id == contradicted.verdict.sample_id)
    assert {r.id for r in rows.rows if r.fact == fact and r.group == "contradicting"} == {*against}


@pytest.mark.long
def test_composed_mitigations_are_set_beside_those_of_an_oracle(store):
    result = CliRunner().invoke(main, ["lab", str(SMOKE), "--mitigate", "auto", "--json"])
    assert result.exit_code == 0, result.stderr
    (found,) = json.loads(result.stdout)["seeds"]
    assert found["auto"]["unlearned"] > 0
    for name in ("auto", "oracle"):
        one = found["auto"][name]
        assert 0 <= one["unlearned"] <= 1
        assert one["combines"]
        assert set(one["first"]) == set(one["groups"])
    assert set(found["auto"]["oracle"]["groups"]) <= set(CAUSES)
