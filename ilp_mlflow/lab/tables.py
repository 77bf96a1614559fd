"""What a lab found, as text. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ilp_mlflow.core.terminal import format_table, wrap


def truth(found: Mapping[str, Any]) -> str:
    """The planted truth beside what the tool said: one line per group."""
    said, groups = found["attribution"]["default"], found["groups"]
    rows = [["planted", "samples", "exact", "held", "the unlearned are called"]]
    for group, values in groups.items():
        called = _called(said["confusion"][group])
        rows.append(
            [
                group,
                str(values["n"]),
                f"{values['learned']:.0%}",
                f"{values['paraphrased']:.0%}",
                called,
            ]
        )
    others = found["samples"] - sum(values["n"] for values in groups.values())
    rows.append(["(other rows)", str(others), "", "", _called(said["beside"])])
    title = (
        "What was planted, and what became of it (exact: word for word; held: in\n"
        "other words, too; the unlearned: by the verdict, which also asks for a margin):"
    )
    return "\n".join([title, "", *format_table(rows)])


BRIEF = {
    "missing_knowledge": "missing",
    "knowledge_conflict": "conflict",
    "data_contradiction": "contra.",
    "left_side_forgetting": "lost",
    "insufficient_optimization": "weak",
    "not_trained": "unseen",
}
"""Causes as the heads of narrow columns."""


def mitigations(found: Mapping[str, Any]) -> str:
    """What every mitigation did to every planted group, in both grades: shares of the unlearned, net of control."""
    lines = []
    for grade, title in (("net_recovery", "reproduced"), ("held", "held in other words")):
        rows = [[title, *BRIEF.values(), "rule"]]
        for one in found["mitigations"]:
            shares = [one[grade].get(cause) for cause in BRIEF] + [one["rule"]]
            rows.append([one["name"], *(_share(s).replace("0.", ".") for s in shares)])
        lines += [*format_table(rows), ""]
    regressed = {
        m["name"]: m["control_regressed"] for m in found["mitigations"] if m["control_regressed"]
    }
    named = ", ".join(f"{name} {share:.0%}" for name, share in regressed.items()) or "none"
    lines += wrap(f"control group regressed: {named}", hang=2)
    return "\n".join(
        ["shares of each planted group's unlearned samples, net of control:", "", *lines]
    )


def composed(found: Mapping[str, Any]) -> str:
    """What composing mitigations did, by the diagnosis and by somebody who knows the plant."""
    lines = [f"composed mitigations: {found['unlearned']:.2%} of the samples unlearned before"]
    for name in ("auto", "oracle"):
        one = found[name]
        lines += wrap(
            f"{name:<7} {one['unlearned']:.2%} after {', '.join(one['combines'])}", indent=2, hang=8
        )
    reached = (
        "" if found["reached"] is None else f"{found['reached']:.0%} of what the oracle reaches; "
    )
    return "\n".join(
        [*lines, f"  {reached}control group regressed: {found['auto']['control_regressed']:.0%}"]
    )


def benchmark(found: Mapping[str, Any]) -> str:
    """One seed with its counterfactuals: the learned share of every group as planted and with its cause removed."""
    rows = [["group", "samples", "planted", "removed", "rule planted", "rule removed"]]
    for group, values in found["groups"].items():
        shares = [
            values.get(name)
            for name in ("learned", "learned_when_removed", "rule", "rule_when_removed")
        ]
        rows.append([group, str(values["n"]), *("" if s is None else f"{s:.2f}" for s in shares)])
    surface, others, attribution = found["surface"], found["others"], found["attribution"]
    texts = [
        f"other groups moved in {others['moved']} of {others['cells']} cells; "
        f"surface classifier {surface['macro_f1']:.2f} (chance {surface['chance']:.2f})",
        f"causes named right, macro-F1: {attribution['default']['macro_f1']:.2f}, without the rows' probes "
        f"{attribution['without_probes']['macro_f1']:.2f}; by the study's rules {attribution['paper']['macro_f1']:.2f}",
        "unlearned ones found, precision and recall against paraphrases: "
        + ", ".join(
            f"{preset} {_share(d['precision'])} and {_share(d['recall'])}"
            for preset, d in found["detection"].items()
        ),
        "seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in found["seconds"].items()),
    ]
    wide = [line for text in texts for line in wrap(text, hang=2)]
    return "\n".join([f"seed {found['seed']}", *format_table(rows), *wide])


def _called(counts: Mapping[str, int]) -> str:
    """The two commonest causes and how many have another one, each on a line."""
    first, rest = (ranked := sorted(counts.items(), key=lambda item: -item[1]))[:2], ranked[2:]
    others = [("others", sum(n for _, n in rest))] if rest else []
    return "\n".join(f"{cause} {n}" for cause, n in [*first, *others]) or "-"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
