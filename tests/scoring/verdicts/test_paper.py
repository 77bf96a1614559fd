import numpy as np
import pytest

from ilp_mlflow.core.values import Score, to_table
from ilp_mlflow.scoring.verdicts.timeline import (
    verdict_table,
)
from tests.scoring.verdicts.judged_scores import judged, score, verdicts


@pytest.mark.parametrize("p", [0.05, 0.1294, 0.25])
def test_the_papers_rule_draws_its_runs(p):
    # 0 of 5 right has probability (1 - p)^5
    table = to_table([score(sample=str(i), p=p) for i in range(2000)], Score)
    found = verdict_table(judged(table, ["last"], "paper"), ["last"])
    unlearned = np.array(found["status"].to_pylist()) == "unlearned"
    expected = (1 - p) ** 5
    assert unlearned.mean() == pytest.approx(
        expected, abs=4 * np.sqrt(expected * (1 - expected) / 2000)
    )
    assert set(found["status"].to_pylist()) == {"learned", "unlearned"}
    assert set(np.sign(found["margin"].to_pylist())) == {
        np.sign(0.5 - expected)
    }  # of the closed form, whatever was drawn
    none = [reason.startswith("0 of 5 sampled runs") for reason in found["reason"].to_pylist()]
    assert none == unlearned.tolist()
    assert all(reason.endswith(f"(probability {p:.2f})") for reason in found["reason"].to_pylist())
    assert (
        verdict_table(judged(table, ["last"], "paper", seed=1), ["last"])["status"]
        != found["status"]
    )


def test_certain_options_need_no_luck():
    assert [verdicts(score(p=p), preset="paper")[0].status for p in (0.0, 1.0)] == [
        "unlearned",
        "learned",
    ]


def test_the_papers_rule_needs_options():
    (found,) = verdicts(score(), preset="paper")
    assert (found.status, found.reason) == ("unscored", "no options to choose from")
