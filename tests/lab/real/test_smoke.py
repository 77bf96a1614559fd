"""The real lab in its smoke form, where this machine has its base."""

import os
from pathlib import Path

import pytest

from ilp_mlflow.lab.rows import CAUSES, GROUPS
from tests.cli.commands import document

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
MODEL = CACHE / "ilp_mlflow" / "SmolLM2-135M-Instruct"
SMOKE = Path(__file__).parents[3] / "experiments" / "real-lab-smoke.yaml"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not MODEL.exists(), reason="needs SmolLM2: run `make smollm2`")
def test_a_real_base_is_planted_around_trained_and_diagnosed(store):
    (found,) = document("lab", SMOKE, "--model", MODEL, "--seed", "1")["seeds"]
    assert list(found["groups"]) == list(GROUPS)
    assert set(found["acceptance"]) == set(GROUPS)
    assert list(found["attribution"]) == ["default", "without_probes", "paper"]
    for group, shares in found["groups"].items():
        assert 0 <= shares["learned"] <= 1, group
        assert shares["n"] > 0
    assert not found["seed_counts"]
    # the ledger does not guess, however little is learned; an end token in no loss explains nothing
    # where not even the answer is said, and then only the stage is to blame, which stopped too early
    confusion = found["attribution"]["default"]["confusion"]["not_trained"]
    assert set(confusion) <= {"not_trained", "insufficient_optimization", "unexplained"}
    assert confusion["not_trained"] >= 1
    assert set(found["attribution"]["default"]["per_cause"]) <= set(CAUSES)
