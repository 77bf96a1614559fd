"""The rule of the study: unlearned is what too few of five sampled runs get right."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ilp_mlflow.core.verdict_rules import Judged, ScoredRows, VerdictRule
from ilp_mlflow.scoring.metrics import (
    SAMPLED_RUNS,
    Floats,
    fail_probability,
    logit,
    sampled_passes,
    sigmoid,
    uniform_draws,
)
from ilp_mlflow.scoring.verdicts.columns import (
    Bools,
    gave_no_number,
    is_bfloat16,
    is_measured,
    join,
    percentages,
    pick,
    probabilities,
)
from ilp_mlflow.scoring.verdicts.greedy import BAND
from ilp_mlflow.scoring.verdicts.statuses import LEARNED, STATUSES, UNLEARNED, UNSCORED

if TYPE_CHECKING:
    import pyarrow as pa


class Paper(VerdictRule):
    """Unlearned is what fewer than one in five sampled runs pick among its options.

    The pass@N test of Xue et al. (section 3.1.3), with N = 5 runs and T = 0.2.
    """

    needs_samples: ClassVar[bool] = False

    def judge(self, rows: ScoredRows) -> Judged:
        """Runs are drawn with the seed, so the status may be the less likely one.

        The margin is the log-odds that they pass, in closed form.
        """
        scores = rows.scores
        p_correct, draws = probabilities(scores), _draws(scores, rows.seed)
        statuses = np.where(_fails(p_correct, draws), UNLEARNED, LEARNED).astype(np.int8)
        # the log-odds of passing are those of failing with the opposite sign
        margins = -logit(fail_probability(p_correct))
        margins[~(np.isfinite(p_correct) & is_measured(scores))] = np.nan
        statuses[np.isnan(margins)] = UNSCORED
        return Judged(pick(STATUSES, statuses), margins, _reasons(scores, p_correct, draws))


def may_turn_in_float32(scores: pa.Table, seed: int) -> Bools:
    """(rows,): whether a row in bfloat16 could get another status in float32.

    The runs fall on different sides of T at the two ends of the band around the log-odds of the
    right option, or bfloat16 gave no number.
    """
    log_odds, draws = logit(probabilities(scores)), _draws(scores, seed)
    band = BAND["bfloat16"].odds
    at_lower_end = _fails(sigmoid(log_odds - band), draws)
    at_upper_end = _fails(sigmoid(log_odds + band), draws)
    return ((at_lower_end != at_upper_end) | gave_no_number(scores)) & is_bfloat16(scores)


def _fails(p_correct: Floats, draws: Floats) -> Bools:
    # the same as `sampled_passes(p_correct, draws) / N < T`, without counting: that distribution
    # function is inverted, so few enough runs pass just where the draw is below P(fail)
    return draws < fail_probability(p_correct)


def _draws(scores: pa.Table, seed: int) -> Floats:
    return uniform_draws(scores["sample_id"], scores["checkpoint"], seed)


def _reasons(scores: pa.Table, p_correct: Floats, draws: Floats) -> pa.Array:
    import pyarrow.compute as pc

    passes = sampled_passes(p_correct, draws)
    sampled = f" of {SAMPLED_RUNS} sampled runs pick the right option (probability "
    reasons = join(passes, sampled, percentages(scores), ")")
    return pc.fill_null(reasons, "no options to choose from")
