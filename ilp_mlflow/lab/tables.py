"""What a lab found, as text. Pure functions of the result that `ilp lab --json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ilp_mlflow.core.terminal.text import format_table, wrap

SHORT_NAMES = {
    "missing_knowledge": "missing",
    "knowledge_conflict": "conflict",
    "data_contradiction": "contra.",
    "left_side_forgetting": "lost",
    "insufficient_optimization": "weak",
    "not_trained": "unseen",
}
"""Causes as the heads of narrow columns."""
TRUTH_TITLE = """\
What was planted, and what became of it (exact: word for word; held: in
other words, too; the unlearned: by the verdict, which also asks for a margin):"""


def truth(result: Mapping[str, Any]) -> str:
    """The planted truth beside what the tool said: one line per group."""
    attribution, groups = result["attribution"]["default"], result["groups"]
    rows = [["planted", "samples", "exact", "held", "the unlearned are called"]]
    samples_in_groups = 0
    for group, values in groups.items():
        samples_in_groups += values["n"]
        learned, held = f"{values['learned']:.0%}", f"{values['paraphrased']:.0%}"
        called = _called(attribution["confusion"][group])
        rows.append([group, str(values["n"]), learned, held, called])
    # every row of every stage is judged, also those that are only there for the planted ones
    other_rows = result["samples"] - samples_in_groups
    rows.append(["(other rows)", str(other_rows), "", "", _called(attribution["beside"])])
    return "\n".join([TRUTH_TITLE, "", *format_table(rows)])


def mitigations(result: Mapping[str, Any]) -> str:
    """What every mitigation did to every planted group, in both grades.

    Shares of the unlearned samples, net of the control.
    """
    lines = ["shares of each planted group's unlearned samples, net of control:", ""]
    for grade, title in (("net_recovery", "reproduced"), ("held", "held in other words")):
        rows = [[title, *SHORT_NAMES.values(), "rule"]]
        for mitigation in result["mitigations"]:
            rows.append([mitigation["name"], *_short_shares(mitigation, grade)])
        lines += [*format_table(rows), ""]
    regressed = list[str]()
    for mitigation in result["mitigations"]:
        # not measured, or none: both are left out
        if mitigation["control_regressed"]:
            regressed.append(f"{mitigation['name']} {mitigation['control_regressed']:.0%}")
    lines += wrap(f"control group regressed: {', '.join(regressed) or 'none'}", hang=2)
    return "\n".join(lines)


def _short_shares(mitigation: Mapping[str, Any], grade: str) -> list[str]:
    """What a mitigation did to each cause in one grade, and to rules, as the cells of a line."""
    cells = list[str]()
    for cause in SHORT_NAMES:
        cells.append(_short_share(mitigation[grade].get(cause)))
    cells.append(_short_share(mitigation["rule"]))
    return cells


def _short_share(value: float | None) -> str:
    # eight columns have to fit into a terminal: .5 and -.5 in place of 0.5 and -0.5
    return _share(value).replace("0.", ".")


def composed(result: Mapping[str, Any]) -> str:
    """What composing mitigations did, by the diagnosis and by somebody who knows the plant."""
    before = f"{result['unlearned']:.2%} of the samples unlearned before"
    lines = [f"composed mitigations: {before}"]
    for name in ("auto", "oracle"):
        after = f"{result[name]['unlearned']:.2%} after {', '.join(result[name]['combines'])}"
        lines += wrap(f"{name:<7} {after}", indent=2, hang=8)
    regressed = f"control group regressed: {result['auto']['control_regressed']:.0%}"
    if result["reached"] is not None:
        regressed = f"{result['reached']:.0%} of what the oracle reaches; {regressed}"
    return "\n".join([*lines, f"  {regressed}"])


def benchmark(result: Mapping[str, Any]) -> str:
    """One seed with its counterfactuals: what every group learns as planted, and uncaused."""
    columns = ("learned", "learned_when_removed", "rule", "rule_when_removed")
    rows = [["group", "samples", "planted", "removed", "rule planted", "rule removed"]]
    for group, values in result["groups"].items():
        cells = [group, str(values["n"])]
        # the control has no cause to remove, and only one group has a rule
        for name in columns:
            cells.append(f"{values[name]:.2f}" if name in values else "")
        rows.append(cells)
    lines = [f"seed {result['seed']}", *format_table(rows)]
    for text in _benchmark_sentences(result):
        lines += wrap(text, hang=2)
    return "\n".join(lines)


def acceptance(result: Mapping[str, Any]) -> str:
    """Which groups of the real lab are as they were planted to be, and the score of these alone."""
    rows = [["learned", "with its cause", "without it", ""]]
    missed = list[str]()
    for group, values in result["groups"].items():
        fault = result["acceptance"][group]
        without = _share(values.get("learned_when_removed"))
        verdict = "not accepted" if fault else "accepted"
        rows.append([group, _share(values["learned"]), without, verdict])
        if fault:
            missed += wrap(f"{group}: not accepted, so not scored: {fault}", hang=2)
    lines = [*format_table(rows), *(missed or ["every group is as it was planted to be"])]
    if not result["seed_counts"]:
        sentence = "the control or more than one other group is not as planned: nothing is known"
        lines += wrap(f"{sentence} of this seed, and its score is 0", hang=2)
    scores = list[str]()
    for name, found in result["attribution"].items():
        scores.append(f"{name} {found['macro_f1']:.2f}")
    blamed = result["attribution"]["default"]["control_blamed"]
    lines += wrap(f"causes named right, macro-F1 of the groups scored: {', '.join(scores)}", hang=2)
    lines.append(f"control rows that are given a cause: {blamed:.1%}")
    return "\n".join(lines)


def _benchmark_sentences(result: Mapping[str, Any]) -> list[str]:
    """What is said of all groups together, below the table."""
    surface, others = result["surface"], result["others"]
    f1 = {name: values["macro_f1"] for name, values in result["attribution"].items()}
    detected = list[str]()
    for preset, values in result["detection"].items():
        precision, recall = _share(values["precision"]), _share(values["recall"])
        detected.append(f"{preset} {precision} and {recall}")
    seconds = [f"{name} {value:.0f}" for name, value in result["seconds"].items()]
    return [
        f"other groups moved in {others['moved']} of {others['cells']} cells; "
        f"surface classifier {surface['macro_f1']:.2f} (chance {surface['chance']:.2f})",
        f"causes named right, macro-F1: {f1['default']:.2f}, without the rows' probes "
        f"{f1['without_probes']:.2f}; by the study's rules {f1['paper']:.2f}",
        "unlearned ones found, precision and recall against paraphrases: " + ", ".join(detected),
        "seconds: " + ", ".join(seconds),
    ]


def _called(counts: Mapping[str, int]) -> str:
    """The two commonest causes and how many have another one, each on a line."""
    # of equally common ones the first counted comes first: a sort keeps their order
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    lines = [f"{cause} {n}" for cause, n in ranked[:2]]
    others = sum(n for _, n in ranked[2:])
    if others:
        lines.append(f"others {others}")
    return "\n".join(lines) or "-"


def _share(value: float | None) -> str:
    # None: there was nothing to take a share of
    return "-" if value is None else f"{value:.2f}"
