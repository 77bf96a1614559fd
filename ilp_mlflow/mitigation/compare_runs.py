"""Two runs side by side, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ilp_mlflow.core.errors import TrackingError
from ilp_mlflow.core.values import Status, Unscored, Verdict, to_rows
from ilp_mlflow.mitigation.statistics import mcnemar_p
from ilp_mlflow.scoring.verdicts.timeline import verdict_table
from ilp_mlflow.scoring.verdicts.unscored import group_unscored, unscored_text
from ilp_mlflow.tracking import runs

IN_BOTH_RUNS = ("recovered", "regressed", "still", "kept", "flickering", "unscored")
"""What can become of a sample from one run to another, in the order it is shown."""
IN_ONE_RUN = ("only_before", "only_after")
"""The same of a sample that only one of the two runs has."""
CHANGES: Mapping[tuple[Status, Status], str] = {
    ("unlearned", "learned"): "recovered",
    ("learned", "unlearned"): "regressed",
    ("unlearned", "unlearned"): "still",
    ("learned", "learned"): "kept",
}
"""What became of a sample, by its statuses before and after, where both are firm."""


@dataclass(frozen=True)
class Comparison:
    """What became of every sample from one run, A, to another, B."""

    before: Mapping[str, Verdict]
    """Verdicts in A, by sample id."""
    after: Mapping[str, Verdict]
    """Verdicts in B, by sample id."""

    @cached_property
    def transitions(self) -> dict[str, list[str]]:
        """Sample ids by what became of them, see the function of that name."""
        return transitions(_statuses(self.before), _statuses(self.after))

    @property
    def p_value(self) -> float:
        """Of the exact McNemar test over recovered and regressed samples."""
        return mcnemar_p(len(self.transitions["recovered"]), len(self.transitions["regressed"]))

    @property
    def unscored_in_a(self) -> tuple[Unscored, ...]:
        """Why samples are not scored in A."""
        return group_unscored(self.before.values())

    @property
    def unscored_in_b(self) -> tuple[Unscored, ...]:
        """Why samples are not scored in B."""
        return group_unscored(self.after.values())

    def document(self) -> dict[str, Any]:
        """All of it as JSON values: ids by name of a transition, `p_value`, and the reasons."""
        return {
            **self.transitions,
            "p_value": self.p_value,
            "unscored_in_a": [group.model_dump() for group in self.unscored_in_a],
            "unscored_in_b": [group.model_dump() for group in self.unscored_in_b],
        }


def compare_runs(run_a: str, run_b: str) -> Comparison:
    """What became of every sample from one diagnosed run, or run of a mitigation, to another.

    Raises TrackingError when a run is unknown or was not judged, when the two share no sample, or
    judge one by different rules.
    """
    for run_id in (run_a, run_b):
        # told before MLflow is asked, which would make a store where there is none
        runs.find_experiment_run("", run_id)
    comparison = Comparison(_read_verdicts(run_a), _read_verdicts(run_b))
    if not any(comparison.transitions[name] for name in IN_BOTH_RUNS):
        raise TrackingError(
            f"runs {run_a} and {run_b} have no sample in common; compare runs on the same data"
        )
    _refuse_other_rules(comparison)
    return comparison


def _refuse_other_rules(comparison: Comparison) -> None:
    """Raise TrackingError where a sample is judged by one rule in A and by another in B."""
    for sample_id, before in comparison.before.items():
        after = comparison.after.get(sample_id)
        # one that is unscored whatever the rule has none
        if after is None or not before.rule or not after.rule:
            continue
        if before.rule != after.rule:
            raise TrackingError(
                f"sample '{sample_id}' is judged by the rule '{before.rule}' in A and by "
                f"'{after.rule}' in B; diagnose one of them again by the rules of the other "
                "(scoring.preset, scoring.verdicts)"
            )


def regression_fault(comparison: Comparison, limit: float) -> str:
    """Why `--max-regressed` is not met, in one sentence; "" where it is met.

    `limit` is a number of samples or, below 1, a share of those that were learned in A. A sample
    that was learned in A and that B does not have is not kept, so it counts as regressed. It is not
    met where scores do not say what became of a sample: where one that is scored in A is not in B,
    where one that is unlearned in B is not scored in A, and where none is scored in both.
    """
    before, after = comparison.before, comparison.after
    compared, lost, unknown = 0, [], []
    for sample_id in before.keys() & after.keys():
        was_scored = before[sample_id].status != "unscored"
        is_scored = after[sample_id].status != "unscored"
        compared += was_scored and is_scored
        if was_scored and not is_scored:
            lost.append(after[sample_id])
        elif not was_scored and after[sample_id].status == "unlearned":
            unknown.append(before[sample_id])
    for run, verdicts in (("B", lost), ("A", unknown)):
        if verdicts:
            return f"{_unscored_sentence(verdicts, run)}; --max-regressed cannot be met"
    if not compared:
        return "no sample is scored in both runs; --max-regressed cannot be met"
    return _too_many_regressed(comparison, limit)


def _unscored_sentence(verdicts: Sequence[Verdict], run: str) -> str:
    """How many samples are unscored in a run, and why."""
    # in a fixed order, so that the example is always the same
    groups = group_unscored(sorted(verdicts, key=lambda verdict: verdict.sample_id))
    samples = "1 sample is" if len(verdicts) == 1 else f"{len(verdicts)} samples are"
    return f"{samples} unscored in {run} ({unscored_text(groups)})"


def _too_many_regressed(comparison: Comparison, limit: float) -> str:
    """That more samples regressed than `limit`, or are missing in B; "" where they did not."""
    ids, before = comparison.transitions, comparison.before
    missing = [i for i in ids["only_before"] if before[i].status == "learned"]
    regressed = len(ids["regressed"]) + len(missing)
    learned_before = sum(verdict.status == "learned" for verdict in before.values())
    if regressed <= (limit * learned_before if limit < 1 else limit):
        return ""
    note = ""
    if missing:
        note = f" ({len(missing)} of them, such as '{missing[0]}', are only in A)"
    return f"{regressed} samples regressed{note}, more than --max-regressed {limit:g}"


def transitions(before: Mapping[str, Status], after: Mapping[str, Status]) -> dict[str, list[str]]:
    """Sample ids by what became of them from the statuses `before` to those `after`.

    `recovered`, `regressed`, `still` (unlearned in both), `kept` (learned in both), `flickering`
    (uncertain on one side or both) and `unscored` (likewise); samples that only one side has are
    `only_before` or `only_after`.
    """
    ids: dict[str, list[str]] = {name: [] for name in (*IN_BOTH_RUNS, *IN_ONE_RUN)}
    for sample_id in dict.fromkeys([*before, *after]):
        if sample_id not in after:
            name = "only_before"
        elif sample_id not in before:
            name = "only_after"
        else:
            name = _change(before[sample_id], after[sample_id])
        ids[name].append(sample_id)
    return ids


def _change(before: Status, after: Status) -> str:
    """What became of a sample that both sides have."""
    # a sample without a score on one side tells less than an uncertain one
    if "unscored" in (before, after):
        return "unscored"
    return CHANGES.get((before, after), "flickering")


def _statuses(verdicts: Mapping[str, Verdict]) -> dict[str, Status]:
    """The statuses of verdicts, by sample id."""
    return {sample_id: verdict.status for sample_id, verdict in verdicts.items()}


def _read_verdicts(run_id: str) -> dict[str, Verdict]:
    """The verdict of every sample under the last checkpoint of a run, by id."""
    # the run of a diagnosis leaves its scores with its parent
    if runs.tags(run_id).get("ilp.kind") == "diagnosis":
        run_id = runs.parent_of(run_id) or run_id
    if not runs.has(run_id, "judgements.parquet"):
        raise TrackingError(
            f"run {run_id} holds no verdicts; "
            "compare diagnosed experiments, or runs of mitigations and controls"
        )
    names = [checkpoint.name for checkpoint in runs.read_checkpoints(run_id)]
    # the run of a mitigation lists only what it trained, but scores the base, too
    if names[0] != "base":
        names.insert(0, "base")
    verdicts = verdict_table(runs.read_table(run_id, "judgements.parquet"), names)
    return {verdict.sample_id: verdict for verdict in to_rows(verdicts, Verdict)}
