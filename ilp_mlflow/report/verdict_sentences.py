"""What the rules of verdicts say of whole stages: how far answers were learned, and what not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ilp_mlflow.core.values import Report, StageVerdicts, Verdict

SOLVED_BY_BASE = 0.5
"""Share 0..1 of a stage's rows that the base passes, above which a rule measures no learning."""
ORDER = ("reproduced", "reached", "not reached")
"""Grades of the rule for long answers, the best first."""
OTHER_WORDS = (
    "What is reached and said otherwise is neither learned nor unlearned; a check of your own "
    "decides it (scoring.verdicts, rule verify)."
)


def count_verdicts(
    verdicts: Sequence[Verdict], stage_of: Mapping[str, str]
) -> dict[str, StageVerdicts]:
    """How the verdicts of each stage's samples came about, by stage."""
    by_stage: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_stage.setdefault(stage_of[verdict.sample_id], []).append(verdict)
    counts = {}
    for stage, of_stage in by_stage.items():
        rules: dict[str, int] = {}
        grades: dict[str, int] = {}
        for verdict in of_stage:
            if verdict.rule:
                rules[verdict.rule] = rules.get(verdict.rule, 0) + 1
            if verdict.grade:
                grades[verdict.grade] = grades.get(verdict.grade, 0) + 1
        solved = sum(verdict.already_solved for verdict in of_stage)
        counts[stage] = StageVerdicts(rules=rules, grades=grades, already_solved=solved)
    return counts


def verdict_sentences(report: Report) -> list[str]:
    """How far long answers were learned, what the base knew before, and what measures nothing."""
    sentences = []
    for stage, counts in report.verdict_counts.items():
        sentences += _grade_sentences(stage, counts)
        sentences += _solved_sentences(stage, counts, report)
    return sentences


def rule_names(report: Report) -> list[str]:
    """Names of the rules that judged its samples."""
    names = dict.fromkeys(rule for c in report.verdict_counts.values() for rule in c.rules)
    return list(names) or [report.preset]


def _grade_sentences(stage: str, counts: StageVerdicts) -> list[str]:
    if "long" in counts.rules and not {"reached", "not reached"} & counts.grades.keys():
        return [_reproduced_sentence(stage, counts)]
    if not counts.grades:
        return []
    names = [*ORDER, *(name for name in counts.grades if name not in ORDER)]
    shares = [f"{counts.grades[name]} {name}" for name in names if name in counts.grades]
    total = sum(counts.grades.values())
    text = f"Of {total} long answers of stage '{stage}', {', '.join(shares)}."
    if counts.grades.get("reached"):
        text += f" {OTHER_WORDS}"
    return [text]


def _reproduced_sentence(stage: str, counts: StageVerdicts) -> str:
    """How many long answers are said, where it is not known which of the others were reached."""
    return (
        f"Of {counts.rules['long']} long answers of stage '{stage}', "
        f"{counts.grades.get('reproduced', 0)} are reproduced. Which of the others training "
        "reached is not known: that takes 40 held-out rows or more (held_out). A check of your own "
        "decides what is said otherwise (scoring.verdicts, rule verify)."
    )


def _solved_sentences(stage: str, counts: StageVerdicts, report: Report) -> list[str]:
    base = report.checkpoints[0].name
    share = report.retention.get(stage, {}).get(base)
    if "paper" in counts.rules and share is not None and share > SOLVED_BY_BASE:
        return [
            f"By the rule 'paper' the untrained base passes {share:.0%} of stage '{stage}': there "
            "it does not measure what was learned, since any model tells the right answer from "
            "these wrong options; leave --preset paper out."
        ]
    if not counts.already_solved:
        return []
    is_one = counts.already_solved == 1
    return [
        f"{counts.already_solved} learned {'sample' if is_one else 'samples'} of stage '{stage}' "
        f"{'was' if is_one else 'were'} answered by the base before any training."
    ]
