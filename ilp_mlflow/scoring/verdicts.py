"""From scores to verdicts: which samples are learned, since when, and when they were lost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ilp_mlflow.core.errors import DatasetError, ModelError
from ilp_mlflow.core.finite_scores import NOT_FINITE, is_nonfinite, lists_are_finite
from ilp_mlflow.core.values import Status, Unscored, Verdict, to_rows
from ilp_mlflow.scoring.metrics import (
    SAMPLED_RUNS,
    Floats,
    fail_probability,
    logit,
    recognition_margin,
    sampled_passes,
    sigmoid,
    uniform_draws,
)

if TYPE_CHECKING:
    import pyarrow as pa

Preset = Literal["default", "paper"]
"""The rule by which verdicts are decided."""

Codes = npt.NDArray[np.int8]
"""Statuses as indices into STATUSES."""
Bools = npt.NDArray[np.bool_]


class Band(NamedTuple):
    """How far off the two signals of the default rule may be, nats."""

    gap: float
    """Of `Score.gap`, a single difference of logits."""
    odds: float
    """Of the log-odds of the right option, which come from sums and are off by more."""


BAND = {"float32": Band(0.1, 0.1), "bfloat16": Band(1.5, 3.0)}
"""By the precision that scores were computed in; those of bfloat16 are measured, see results.md.

What could fall on either side of the decision within its band is `uncertain`.
"""
STATUSES: tuple[Status, ...] = ("unlearned", "learned", "uncertain", "unscored")
UNLEARNED, LEARNED, UNCERTAIN, UNSCORED = 0, 1, 2, 3
COLUMNS = (
    "sample_id",
    "checkpoint",
    "logprob",
    "tokens",
    "token_accuracy",
    "gap",
    "stops",
    "option_logprobs",
    "p_correct",
    "wrong",
    "dtype",
    "unscored",
)
"""The columns of a score table that this module reads."""
BLOCK_ROWS = 2**16
"""Rows for which margins are computed at a time."""


class Decisions(NamedTuple):
    """What a rule decides for every row of a score table."""

    statuses: Codes
    """(rows,)"""
    margins: Floats
    """(rows,): distance from the decision, nats; positive is learned, nan is unscored."""


class Timeline(NamedTuple):
    """The statuses of all samples under all checkpoints."""

    sample_ids: pa.Array
    """(samples,)"""
    statuses: Codes
    """(samples, checkpoints)"""
    margins: Floats
    """(samples, checkpoints): nats, nan where unscored."""


def verdict_margins(scores: pa.Table, preset: Preset = "default") -> Floats:
    """Signed distance from the decision for every row of `scores`, nats.

    Positive is learned; nan cannot be decided.

    `default`: the weaker of two signals. Reproduction: `gap`, the weakest right token against its
    best competitor. Recognition, where options exist: log-odds of the right option beyond those at
    which a guess-corrected pass rate is one half. `paper`: log-odds that N = 5 sampled runs pass
    (section 3.1.3), in closed form.
    """
    margins: Floats = _margin_bounds(scores, preset)[1]
    return margins


def decide_statuses(scores: pa.Table, preset: Preset = "default", seed: int = 0) -> Decisions:
    """Status and margin of every row of `scores`.

    `default`: the sign of the margin, `uncertain` where the BAND could turn it. `paper`: unlearned
    when the share of N = 5 runs sampled with `seed` that pick the right option is below T = 0.2
    (section 3.1.3), so the status may be the less likely one. By both, a row is `unscored` that
    says so itself, and one that lacks a number which the rule goes by, or has nan or infinity for
    it.
    """
    lowest, margins, highest = _margin_bounds(scores, preset)
    statuses = np.full(len(margins), UNCERTAIN, np.int8)
    if preset == "paper":
        fails = _sampled_to_fail(_probabilities(scores), _draws(scores, seed))
        statuses[fails] = UNLEARNED
        statuses[~fails] = LEARNED
    else:
        statuses[highest < 0] = UNLEARNED
        statuses[lowest > 0] = LEARNED
    statuses[np.isnan(margins)] = UNSCORED
    return Decisions(statuses, margins)


def undecided_samples(scores: pa.Table, preset: Preset = "default", seed: int = 0) -> Bools:
    """Whether each row of `scores` is to be scored again in float32.

    That is a row in bfloat16 that could get another status, or that is unscored since bfloat16 gave
    no number. `default`: it is uncertain. `paper`:
    the runs sampled with `seed` fall on different sides of T at the two ends of the band around
    the log-odds of the right option.
    """
    if preset == "paper":
        log_odds, draws = logit(_probabilities(scores)), _draws(scores, seed)
        band = BAND["bfloat16"].odds
        fails_at_lower_end = _sampled_to_fail(sigmoid(log_odds - band), draws)
        fails_at_upper_end = _sampled_to_fail(sigmoid(log_odds + band), draws)
        undecided: Bools = fails_at_lower_end != fails_at_upper_end
    else:
        undecided = decide_statuses(scores).statuses == UNCERTAIN
    return (undecided | _gave_no_number(scores)) & _is_bfloat16(scores)


def status_timeline(
    scores: pa.Table, checkpoints: Sequence[str], preset: Preset = "default", seed: int = 0
) -> Timeline:
    """Status and margin of every sample under every checkpoint; a missing score is `unscored`.

    Raises DatasetError for a table that has a sample twice under a checkpoint.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    samples = scores["sample_id"].dictionary_encode().combine_chunks()
    names = pa.array(checkpoints, pa.string())
    columns = pc.fill_null(pc.index_in(scores["checkpoint"], value_set=names), -1).to_numpy()
    # (rows,): scores of checkpoints that are not asked for are left out
    asked_for = columns >= 0
    cells = samples.indices.to_numpy()[asked_for], columns[asked_for]
    shape = len(samples.dictionary), len(checkpoints)
    _refuse_repeated(cells, samples.dictionary, checkpoints)

    statuses, margins = np.full(shape, UNSCORED, np.int8), np.full(shape, np.nan)
    decisions = decide_statuses(scores, preset, seed)
    statuses[cells] = decisions.statuses[asked_for]
    margins[cells] = decisions.margins[asked_for]
    return Timeline(samples.dictionary, statuses, margins)


def verdict_table(
    scores: pa.Table, checkpoints: Sequence[str], preset: Preset = "default", seed: int = 0
) -> pa.Table:
    """One row per sample with the columns of `Verdict`: status under the last checkpoint, history.

    An uncertain or unscored checkpoint neither learns nor loses a sample.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    sample_ids, statuses, margins = status_timeline(scores, checkpoints, preset, seed)
    final = scores.filter(pc.equal(scores["checkpoint"], checkpoints[-1]))
    places = pc.index_in(sample_ids, value_set=final["sample_id"])
    reasons = _reasons(final, preset, seed).take(places)
    return pa.table(
        {
            "sample_id": sample_ids,
            "status": _pick(STATUSES, statuses[:, -1]),
            "margin": pa.array(margins[:, -1], pa.float64(), from_pandas=True),
            "first_learned": _pick(checkpoints, _first_learned(statuses)),
            "last_lost": _pick(checkpoints, _last_lost(statuses)),
            "reason": pc.fill_null(reasons, "not scored"),
        }
    )


def status_histories(
    scores: pa.Table, checkpoints: Sequence[str], preset: Preset = "default", seed: int = 0
) -> dict[str, tuple[Status, ...]]:
    """Status under every checkpoint, in their order, by sample id."""
    sample_ids, statuses, _ = status_timeline(scores, checkpoints, preset, seed)
    histories = {}
    for sample_id, codes in zip(sample_ids.to_pylist(), statuses.tolist(), strict=True):
        histories[sample_id] = tuple(STATUSES[code] for code in codes)
    return histories


def retention_by_stage(
    scores: pa.Table,
    stage_of: Mapping[str, str],
    checkpoints: Sequence[str],
    preset: Preset = "default",
    seed: int = 0,
) -> dict[str, dict[str, float | None]]:
    """Share 0..1 of each stage's scored samples that are learned, by stage, then checkpoint.

    None where none of them is scored. `stage_of` has the stage of every sample, by id.
    """
    retention: dict[str, dict[str, float | None]] = {}
    for stage, statuses in _statuses_by_stage(scores, stage_of, checkpoints, preset, seed).items():
        learned = (statuses == LEARNED).sum(0).tolist()
        scored = (statuses != UNSCORED).sum(0).tolist()
        retention[stage] = {}
        for name, n_learned, n_scored in zip(checkpoints, learned, scored, strict=True):
            retention[stage][name] = n_learned / n_scored if n_scored else None
    return retention


def unscored_by_stage(
    scores: pa.Table,
    stage_of: Mapping[str, str],
    checkpoints: Sequence[str],
    preset: Preset = "default",
    seed: int = 0,
) -> dict[str, dict[str, int]]:
    """Number of each stage's samples that are not scored, by stage, then checkpoint.

    These are what the shares of `retention_by_stage` leave out, samples of `stage_of` without any
    score included.
    """
    unscored = {}
    for stage, statuses in _statuses_by_stage(scores, stage_of, checkpoints, preset, seed).items():
        counts = (statuses == UNSCORED).sum(0).tolist()
        unscored[stage] = dict(zip(checkpoints, counts, strict=True))
    return unscored


def forgetting_by_stage(
    scores: pa.Table,
    stage_of: Mapping[str, str],
    checkpoints: Sequence[str],
    preset: Preset = "default",
    seed: int = 0,
) -> dict[str, float | None]:
    """Share -1..1 of each stage's samples that was lost since the stage was trained.

    Learned right after the stage less learned at the end, Avalanche's forgetting of an experience,
    over the samples that are scored under both; None where none is. Stages that are no checkpoint
    are left out.
    """
    forgetting: dict[str, float | None] = {}
    for stage, statuses in _statuses_by_stage(scores, stage_of, checkpoints, preset, seed).items():
        if stage in checkpoints:
            after, at_the_end = statuses[:, checkpoints.index(stage)], statuses[:, -1]
            in_both = (after != UNSCORED) & (at_the_end != UNSCORED)
            lost = (after == LEARNED).astype(int) - (at_the_end == LEARNED)
            forgetting[stage] = float(lost[in_both].mean()) if in_both.any() else None
    return forgetting


def _statuses_by_stage(
    scores: pa.Table,
    stage_of: Mapping[str, str],
    checkpoints: Sequence[str],
    preset: Preset,
    seed: int,
) -> dict[str, Codes]:
    """Statuses of the samples of each stage: (samples of the stage, checkpoints)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sample_ids, statuses, _ = status_timeline(scores, checkpoints, preset, seed)
    places = pc.index_in(pa.array(list(stage_of), pa.string()), value_set=sample_ids)
    has_scores = places.is_valid().to_numpy(False)
    # (samples of `stage_of`, checkpoints)
    all_statuses = np.full((len(stage_of), len(checkpoints)), UNSCORED, np.int8)
    all_statuses[has_scores] = statuses[places.drop_null().to_numpy()]
    stages = pa.array(list(stage_of.values()), pa.string()).dictionary_encode()
    codes = stages.indices.to_numpy()
    by_stage = {}
    for code, stage in enumerate(stages.dictionary.to_pylist()):
        by_stage[stage] = all_statuses[codes == code]
    return by_stage


def group_unscored(verdicts: Iterable[Verdict]) -> tuple[Unscored, ...]:
    """The unscored ones of `verdicts` by their reasons, the commonest first.

    Reasons that differ in numbers alone are of one kind, and the first of them stands for all.
    """
    by_kind: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.status == "unscored":
            by_kind.setdefault(re.sub(r"\d+", "0", verdict.reason), []).append(verdict)
    groups = []
    for of_kind in by_kind.values():
        first = of_kind[0]
        group = Unscored(samples=len(of_kind), reason=first.reason, example=first.sample_id)
        groups.append(group)
    return tuple(sorted(groups, key=lambda group: -group.samples))


def count_unscored(groups: Sequence[Unscored]) -> int:
    """Number of samples in `groups`."""
    return sum(group.samples for group in groups)


def unscored_text(groups: Sequence[Unscored]) -> str:
    """Why samples are unscored, in words: `such as 'x': the model's output is not a number`.

    With several reasons each comes with its number of samples.
    """
    if len(groups) == 1:
        return f"such as '{groups[0].example}': {groups[0].reason}"
    return "; ".join(f"{g.samples} such as '{g.example}': {g.reason}" for g in groups)


def check_any_scored(
    scores: pa.Table, checkpoints: Sequence[str], preset: Preset = "default", seed: int = 0
) -> None:
    """Raise ModelError where no sample is scored under the last checkpoint: nothing can be said."""
    verdicts = to_rows(verdict_table(scores, checkpoints, preset, seed), Verdict)
    groups = group_unscored(verdicts)
    if count_unscored(groups) < len(verdicts):
        return
    advice = "mend the rows, or choose another scoring.preset"
    if groups[0].reason == NOT_FINITE:
        advice = "try scoring.dtype float32, or train it again with a lower learning rate"
    raise ModelError(
        f"none of {len(verdicts)} samples can be scored under checkpoint '{checkpoints[-1]}' "
        f"({unscored_text(groups)}): there is no verdict; {advice}"
    )


def _refuse_repeated(
    cells: tuple[npt.NDArray[Any], npt.NDArray[Any]], ids: pa.Array, checkpoints: Sequence[str]
) -> None:
    """Raise DatasetError where two rows are of one cell: of one sample under one checkpoint."""
    counts = np.bincount(cells[0] * len(checkpoints) + cells[1])
    if counts.max(initial=0) > 1:
        sample, checkpoint = divmod(int(counts.argmax()), len(checkpoints))
        raise DatasetError(
            f"scores have sample '{ids[sample]}' under checkpoint '{checkpoints[checkpoint]}' "
            "twice; score the samples again, each id once"
        )


def _margin_bounds(scores: pa.Table, preset: Preset) -> Floats:
    """Margins less their BAND, margins, and margins plus it: (3, rows), nats."""
    import pyarrow as pa

    bounds = [np.empty((3, 0))]
    # in blocks whose intermediate columns stay in the processor's cache: four times as fast
    for batch in scores.to_batches(max_chunksize=BLOCK_ROWS):
        block = pa.Table.from_batches([batch])
        bounds.append(_paper_bounds(block) if preset == "paper" else _default_bounds(block))
    return np.concatenate(bounds, axis=1)


def _paper_bounds(scores: pa.Table) -> Floats:
    p_correct = _probabilities(scores)
    # the log-odds of passing are those of failing with the opposite sign; they have no band, since
    # the rule draws its runs
    margins = -logit(fail_probability(p_correct))
    margins[~(np.isfinite(p_correct) & _is_measured(scores))] = np.nan
    return np.tile(margins, (3, 1))


def _default_bounds(scores: pa.Table) -> Floats:
    import pyarrow.compute as pc

    options = pc.list_value_length(scores["option_logprobs"]).to_numpy().astype(float)
    recognition = recognition_margin(_probabilities(scores), options)
    reproduction = _floats(scores, "gap")
    low, high = BAND["bfloat16"], BAND["float32"]
    is_bfloat16 = _is_bfloat16(scores)
    gap_band = np.where(is_bfloat16, low.gap, high.gap)
    odds_band = np.where(is_bfloat16, low.odds, high.odds)
    # fmin takes the other where one is nan: without options reproduction alone decides
    bounds = np.stack(
        [
            np.fmin(reproduction + sign * gap_band, recognition + sign * odds_band)
            for sign in (-1, 0, 1)
        ]
    )
    # a signal that should be there and is not does not leave the decision to the other
    has_options = np.nan_to_num(options) > 0
    recognised = np.isfinite(_probabilities(scores)) | ~has_options
    judged = np.isfinite(reproduction) & recognised & _is_measured(scores)
    bounds[:, ~judged] = np.nan
    return bounds


def _is_measured(scores: pa.Table) -> Bools:
    """(rows,): whether a row does not say itself that it is unscored, and all in it is finite."""
    is_measured: Bools = scores["unscored"].is_null().to_numpy()
    return is_measured & ~_gave_no_number(scores)


def _gave_no_number(scores: pa.Table) -> Bools:
    """(rows,): whether a row is unscored since a model gave nan or infinity."""
    import pyarrow.compute as pc

    gave_none: Bools = pc.fill_null(pc.equal(scores["unscored"], NOT_FINITE), False).to_numpy()
    for name in ("logprob", "gap", "p_correct"):
        gave_none = gave_none | is_nonfinite(scores[name])
    return gave_none | ~lists_are_finite(scores["option_logprobs"])


def _sampled_to_fail(p_correct: Floats, draws: Floats) -> Bools:
    # the same as `sampled_passes(p_correct, draws) / N < T`, without counting: that distribution
    # function is inverted, so few enough runs pass just where the draw is below P(fail)
    return draws < fail_probability(p_correct)


def _draws(scores: pa.Table, seed: int) -> Floats:
    return uniform_draws(scores["sample_id"], scores["checkpoint"], seed)


def _first_learned(statuses: Codes) -> npt.NDArray[np.int64]:
    """(samples,): the first checkpoint under which each is learned, -1 for never."""
    learned = statuses == LEARNED
    return np.where(learned.any(1), learned.argmax(1), -1)


def _last_lost(statuses: Codes) -> npt.NDArray[np.int64]:
    """(samples,): the last checkpoint that turned learned into unlearned, -1 for none."""
    known, lost_at = np.zeros(len(statuses), bool), np.full(len(statuses), -1)
    for checkpoint, column in enumerate(statuses.T):
        lost_at[known & (column == UNLEARNED)] = checkpoint
        # an uncertain or unscored checkpoint leaves a sample what it was
        decided = (column == UNLEARNED) | (column == LEARNED)
        known = np.where(decided, column == LEARNED, known)
    return lost_at


def _reasons(rows: pa.Table, preset: Preset, seed: int) -> pa.Array:
    """One sentence for each row of a score table on why it has its status."""
    import pyarrow as pa
    import pyarrow.compute as pc

    statuses = decide_statuses(rows, preset, seed).statuses
    if preset == "paper":
        passes = sampled_passes(_probabilities(rows), _draws(rows, seed))
        sampled = f" of {SAMPLED_RUNS} sampled runs pick the right option (probability "
        decided = _join(passes, sampled, _percentages(rows), ")")
        missing = "no options to choose from"
    else:
        decided = _default_reasons(rows, statuses)
        missing = "not scored"
    unscored = rows["unscored"].combine_chunks()
    gave_no_number = pa.array(_gave_no_number(rows) & unscored.is_null().to_numpy(False))
    # rows of a table that nobody has cleared of them
    if pc.any(gave_no_number).as_py():
        unscored = pc.if_else(gave_no_number, NOT_FINITE, unscored)
    unscored = pc.fill_null(unscored, missing)
    # 0: learned or unlearned, 1: uncertain, 2: unscored
    choice = pa.array(np.maximum(statuses - 1, 0))
    return pc.choose(choice, decided, "too close to call", unscored)


def _default_reasons(rows: pa.Table, statuses: Codes) -> pa.Array:
    """Why each row is learned or unlearned by the default rule; the first case that holds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tokens = _floats(rows, "tokens")
    missed = np.nan_to_num(np.rint(tokens * (1 - _floats(rows, "token_accuracy")))).astype(int)
    missed_share = _join(missed, " of ", np.nan_to_num(tokens).astype(int), " tokens")
    wrong = pc.replace_substring_regex(rows["wrong"], r"\s+", " ")
    learned = statuses == LEARNED
    reproduced = _floats(rows, "gap") > -BAND["float32"].gap
    does_not_stop = pc.fill_null(pc.invert(rows["stops"]), False).to_numpy()
    cases = [learned & (missed == 0), learned, reproduced, (missed == 1) & does_not_stop]
    return pc.case_when(
        pc.make_struct(*map(pa.array, cases)),
        "reproduced",
        _join("reproduced but for ", missed_share),
        _join(
            "reproduced, but gives the right option only probability ",
            _percentages(rows),
            " (next: '",
            wrong,
            "')",
        ),
        "right, but does not stop after it",
        _join(missed_share, " are not the model's first choice"),
    )


def _percentages(rows: pa.Table) -> pa.Array:
    """The probability of the right option with two decimals, null without options."""
    texts = [f"{percent / 100:.2f}" for percent in range(101)]
    percents = np.rint(100 * _probabilities(rows))
    return _pick(texts, np.nan_to_num(percents, nan=-1).astype(int))


def _join(*parts: Any) -> pa.Array:
    """Texts and columns, numbers among them, joined row by row; null where one of them is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = []
    for part in parts:
        is_numbers = isinstance(part, np.ndarray)
        texts.append(pa.array(part).cast("string") if is_numbers else part)
    return pc.binary_join_element_wise(*texts, "")


def _pick(names: Sequence[str], index: npt.NDArray[Any]) -> pa.Array:
    """The name at each index, null at a negative one."""
    import pyarrow as pa

    return pa.array(names, pa.string()).take(pa.array(index, mask=index < 0))


def _is_bfloat16(scores: pa.Table) -> Bools:
    import pyarrow.compute as pc

    is_bfloat16: Bools = pc.fill_null(pc.equal(scores["dtype"], "bfloat16"), False).to_numpy()
    return is_bfloat16


def _probabilities(scores: pa.Table) -> Floats:
    """(rows,): the probability of the right option; nan where there is none from 0 to 1."""
    p_correct = _floats(scores, "p_correct")
    return np.where((p_correct >= 0) & (p_correct <= 1), p_correct, np.nan)


def _floats(table: pa.Table, name: str) -> Floats:
    """(rows,): a column of numbers; nan where one is missing or infinite."""
    column: Floats = table[name].to_numpy().astype(np.float64, copy=False)
    return np.where(np.isfinite(column), column, np.nan)
