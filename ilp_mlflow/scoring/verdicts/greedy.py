"""The rule for short answers: said greedily, and preferred to other options.

Learned is a sample whose right tokens are the model's first choice and whose right option, where
there are wrong ones, is more probable than a guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from ilp_mlflow.core.verdict_rules import Judged, ScoredRows, VerdictRule
from ilp_mlflow.scoring.metrics import Floats, recognition_margin
from ilp_mlflow.scoring.verdicts.columns import (
    Bools,
    floats,
    gave_no_number,
    is_bfloat16,
    is_measured,
    join,
    percentages,
    pick,
    probabilities,
)
from ilp_mlflow.scoring.verdicts.statuses import (
    LEARNED,
    STATUSES,
    UNCERTAIN,
    UNLEARNED,
    UNSCORED,
    Codes,
)

if TYPE_CHECKING:
    import pyarrow as pa


class Band(NamedTuple):
    """How far off the two signals of the rule may be, nats."""

    gap: float
    """Of `Score.gap`, a single difference of logits."""
    odds: float
    """Of the log-odds of the right option, which come from sums and are off by more."""


BAND = {"float32": Band(0.1, 0.1), "bfloat16": Band(1.5, 3.0)}
"""By the precision that scores were computed in; those of bfloat16 are measured, see results.md.

What could fall on either side of the decision within its band is `uncertain`.
"""
BLOCK_ROWS = 2**16
"""Rows for which margins are computed at a time."""


class Greedy(VerdictRule):
    """Learned is what the model says greedily, and finds more probable than other options.

    Of 20 tokens one may differ, if it is of no number, name, negation or code.
    """

    needs_samples: ClassVar[bool] = False

    def judge(self, rows: ScoredRows) -> Judged:
        """The sign of the margin, `uncertain` where the BAND could turn it."""
        lowest, margins, highest = margin_bounds(rows.scores)
        statuses = np.full(len(margins), UNCERTAIN, np.int8)
        statuses[highest < 0] = UNLEARNED
        statuses[lowest > 0] = LEARNED
        statuses[np.isnan(margins)] = UNSCORED
        return Judged(pick(STATUSES, statuses), margins, _reasons(rows.scores, statuses))


def greedy_margins(scores: pa.Table) -> Floats:
    """Signed distance from the decision for every row of `scores`, nats; nan: it has none.

    The weaker of two signals. Reproduction: `gap`, the weakest right token against its best
    competitor. Recognition, where options exist: log-odds of the right option beyond those at
    which a guess-corrected pass rate is one half.
    """
    margins: Floats = margin_bounds(scores)[1]
    return margins


def may_turn_in_float32(scores: pa.Table) -> Bools:
    """(rows,): whether a row in bfloat16 could get another status in float32.

    That is one within the BAND of the decision, or one of which bfloat16 gave no number.
    """
    lowest, margins, highest = margin_bounds(scores)
    is_open = ~(highest < 0) & ~(lowest > 0) & ~np.isnan(margins)
    return (is_open | gave_no_number(scores)) & is_bfloat16(scores)


def margin_bounds(scores: pa.Table) -> Floats:
    """Margins less their BAND, margins, and margins plus it: (3, rows), nats."""
    import pyarrow as pa

    bounds = [np.empty((3, 0))]
    # in blocks whose intermediate columns stay in the processor's cache: four times as fast
    for batch in scores.to_batches(max_chunksize=BLOCK_ROWS):
        bounds.append(_bounds(pa.Table.from_batches([batch])))
    return np.concatenate(bounds, axis=1)


def _bounds(scores: pa.Table) -> Floats:
    import pyarrow.compute as pc

    options = pc.list_value_length(scores["option_logprobs"]).to_numpy().astype(float)
    recognition = recognition_margin(probabilities(scores), options)
    reproduction = floats(scores, "gap")
    low, high = BAND["bfloat16"], BAND["float32"]
    in_bfloat16 = is_bfloat16(scores)
    gap_band = np.where(in_bfloat16, low.gap, high.gap)
    odds_band = np.where(in_bfloat16, low.odds, high.odds)
    # fmin takes the other where one is nan: without options reproduction alone decides
    bounds = np.stack(
        [
            np.fmin(reproduction + sign * gap_band, recognition + sign * odds_band)
            for sign in (-1, 0, 1)
        ]
    )
    # a signal that should be there and is not does not leave the decision to the other
    has_options = np.nan_to_num(options) > 0
    recognised = np.isfinite(probabilities(scores)) | ~has_options
    judged = np.isfinite(reproduction) & recognised & is_measured(scores)
    bounds[:, ~judged] = np.nan
    return bounds


def _reasons(rows: pa.Table, statuses: Codes) -> pa.Array:
    """Why each row has its status; the first case that holds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tokens = floats(rows, "tokens")
    missed = np.nan_to_num(np.rint(tokens * (1 - floats(rows, "token_accuracy")))).astype(int)
    missed_share = join(missed, " of ", np.nan_to_num(tokens).astype(int), " tokens")
    wrong = pc.replace_substring_regex(rows["wrong"], r"\s+", " ")
    learned = statuses == LEARNED
    reproduced = floats(rows, "gap") > -BAND["float32"].gap
    does_not_stop = pc.fill_null(pc.invert(rows["stops"]), False).to_numpy()
    cases = [
        statuses == UNSCORED,
        statuses == UNCERTAIN,
        learned & (missed == 0),
        learned,
        reproduced,
        (missed == 1) & does_not_stop,
    ]
    return pc.case_when(
        pc.make_struct(*map(pa.array, cases)),
        "not scored",
        "too close to call",
        "reproduced",
        join("reproduced but for ", missed_share),
        join(
            "reproduced, but gives the right option only probability ",
            percentages(rows),
            " (next: '",
            wrong,
            "')",
        ),
        "right, but does not stop after it",
        join(missed_share, " are not the model's first choice"),
    )
