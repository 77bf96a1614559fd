"""What the self-check of scores costs: eight plain passes beside the scoring of a thousand rows."""

import os
import time

import pytest

from benchmarks.plans import plan_of, questions
from ilp_mlflow.scoring import scorer
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.self_check import check_scores

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = int(os.environ.get("ILP_BENCHMARK_ROWS", "1000"))
FROM_ROWS = 1000
"""Rows from which on the share is promised; scoring takes time in proportion to them."""


@pytest.mark.parametrize(("prompt", "option"), [(50, 5), (200, 15)])
def test_the_self_check_is_a_small_share_of_scoring(prompt, option, smollm2):
    loaded = loading.load_model([smollm2])
    plan = plan_of(questions(loaded.tokenizer, prompt, option, n=ROWS), 1024)
    # both sides are warm
    check_scores(
        plan, loaded, "c", scorer.score_samples(plan.only(frozenset(["0000"])), loaded, "c")
    )
    start = time.perf_counter()
    scores = scorer.score_samples(plan, loaded, "c")
    scored = time.perf_counter()
    check = check_scores(plan, loaded, "c", scores)
    checked = time.perf_counter()
    assert len(check.rows) == 8
    assert check.agrees
    share = (checked - scored) / (scored - start) * min(1.0, ROWS / FROM_ROWS)
    print(
        f"\n  {ROWS} rows in {scored - start:.1f} s, checked in {checked - scored:.2f} s: "
        f"{share:.2%} of the scoring of {max(ROWS, FROM_ROWS)}; "
        f"largest difference {check.largest_difference:.1e} nats per token"
    )
    assert share <= 0.02
