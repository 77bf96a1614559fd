"""A report as text: for the terminal, for its run in MLflow and for an issue. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from ilp_mlflow.core.terminal.text import format_table, wrap
from ilp_mlflow.core.values import Diagnosis, Outcome, Report
from ilp_mlflow.mitigation.outcome import recommendation_text
from ilp_mlflow.report.sentences import (
    best_mitigation,
    change_sentences,
    confirmation_sentences,
    diagnoses_by_cause,
    finding_sentences,
    has_controls,
    leak_sentence,
    mitigation_sentences,
    percent,
    result_sentence,
    status_counts,
    unavailable_sentences,
    unscored_kinds,
    unscored_sentences,
    weak_stage_sentences,
)
from ilp_mlflow.report.verdict_sentences import rule_names, verdict_sentences
from ilp_mlflow.scoring.verdicts.unscored import count_unscored

MAX_EXAMPLES = 2
"""Samples shown for every cause, in the terminal and in the table of the HTML report."""
OUTCOME_COLUMNS = ["mitigation", "recovered", "held", "regressed", "lost", "net"]
"""What is counted of a mitigation.

recovered: unlearned before, learned now. held: of the unlearned ones, those that most other
wordings bring out. regressed: learned before, unlearned now. lost: of what the base knows and of
held-out rows. net: targets recovered, less those under the control (95 % interval). unscored, shown
where there are some: not scored now.
"""
FOLDERS = re.compile(r"(?<![\w.:/])(?:file://)?/(?:[^/\s'\"]+/)+")
"""The folders in front of a file name; those of URLs and relative paths are none."""
WHERE = (
    "Every sample: `ilp/report.html` (read), `ilp/diagnosis.json` (table), "
    "`ilp/diagnosis.parquet` (all columns)."
)
"""Where the description of a run sends its reader."""
Row = list[str]
"""The cells of one row of a table."""
Paint = Callable[[str, str], str]
"""Gives a text a colour, by the colour's name."""


def terminal_summary(report: Report, paint: Paint = lambda text, colour: text) -> str:
    """Result, retention, causes with examples, leak and outcomes as text that fits 80 columns.

    `paint` gives text a colour: the result and the causes.
    """
    lines = _result_lines(report, paint)
    # What is wrong with a whole stage or checkpoint comes before anything about single samples.
    lines += _paragraphs(finding_sentences(report))
    lines += ["", *format_table(_retention_table(report))]
    # What the causes depend on is said before them.
    lines += _paragraphs(weak_stage_sentences(report))
    lines += _paragraphs(unavailable_sentences(report))
    lines += _paragraphs(confirmation_sentences(report))
    for cause, diagnoses in diagnoses_by_cause(report).items():
        lines += ["", *_cause_lines(cause, diagnoses, len(report.diagnoses), paint)]
    if leak_sentence(report):
        lines += _paragraphs([leak_sentence(report)])
    if report.outcomes:
        lines += ["", *format_table(_outcome_table(report))]
    lines += _paragraphs(mitigation_sentences(report))
    return "\n".join(lines)


def _result_lines(report: Report, paint: Paint) -> list[str]:
    """The result, the counts by status, and why some samples could not be scored."""
    lines = [paint(line, "cyan") for line in wrap(result_sentence(report))]
    lines += ["", f"samples by status: {_counts_by_status(report)}"]
    for sentence in (*unscored_sentences(report), *verdict_sentences(report)):
        lines += wrap(sentence, 2, 2, max_lines=6)
    return lines


def _cause_lines(
    cause: str, diagnoses: Sequence[Diagnosis], unlearned: int, paint: Paint
) -> list[str]:
    """How many samples have a cause, and the surest of them."""
    head, *more = wrap(f"{cause}: {len(diagnoses)} of {unlearned} unlearned samples")
    # A name so long that it is broken over lines stays without its colour.
    if head.startswith(cause):
        head = paint(cause, "yellow") + head.removeprefix(cause)
    lines = [head, *more]
    for diagnosis in diagnoses[:MAX_EXAMPLES]:
        lines += _example_lines(diagnosis)
    for sentence in change_sentences(diagnoses):
        lines += wrap(sentence, 2, 2)
    return lines


def _example_lines(diagnosis: Diagnosis) -> list[str]:
    strength = "" if diagnosis.strength is None else f" ({diagnosis.strength:.2f})"
    reason = diagnosis.reason or diagnosis.verdict.reason
    return wrap(f"{diagnosis.verdict.sample_id}{strength}: {reason}", 2, 2, max_lines=6)


def _paragraphs(sentences: Iterable[str]) -> list[str]:
    """Sentences as lines, each with a blank line in front."""
    lines = []
    for sentence in sentences:
        lines += ["", *wrap(sentence)]
    return lines


def markdown_summary(report: Report) -> str:
    """The result as Markdown, for the description of the run.

    How many are unlearned, why and what to do, then a table of each.
    """
    # Who reads the first paragraph only knows how many, why, and what to do.
    opening = [result_sentence(report), *unscored_sentences(report), *verdict_sentences(report)]
    opening += finding_sentences(report)
    if report.diagnoses:
        opening.append(_causes_sentence(report))
    recommendation = recommendation_text(report.outcomes)
    if recommendation:
        opening.append(recommendation)
    parts = [" ".join(opening)]
    if report.diagnoses:
        parts.append(_markdown_table(_cause_table(report)))
    parts.append(f"{_judgement(report)} Learned, by stage and checkpoint:")
    parts.append(_markdown_table(_retention_table(report)))
    parts += weak_stage_sentences(report)
    parts += unavailable_sentences(report)
    parts += confirmation_sentences(report)
    if leak_sentence(report):
        parts.append(leak_sentence(report))
    parts.append(WHERE)
    return "\n\n".join(parts)


def _causes_sentence(report: Report) -> str:
    diagnoses = diagnoses_by_cause(report)
    counts = [f"{len(of_cause)} are {cause}" for cause, of_cause in diagnoses.items()]
    return f"By cause, {', '.join(counts)}."


def _cause_table(report: Report) -> list[Row]:
    """Header and rows: causes with their samples, and how many the best mitigation recovers."""
    rows = [["cause", "samples", "most recovered (by its control)"]]
    for cause, of_cause in diagnoses_by_cause(report).items():
        rows.append([cause, str(len(of_cause)), _most_recovered(report, cause)])
    return rows


def _most_recovered(report: Report, cause: str) -> str:
    """The mitigation that helps most with a cause, and the counts."""
    best = best_mitigation(report, cause)
    if best:
        return f"{best.outcome.mitigation} {best.tally.recovered} ({best.tally.by_control})"
    return "none" if has_controls(report) else "-"


def issue_markdown(report: Report) -> str:
    """What others need to know of a run, as Markdown for an issue.

    Versions, counts, causes and settings; no sample's text.
    """
    parts = [f"**ilp run `{report.name}`**: {result_sentence(report)}"]
    if report.versions:
        parts.append(_versions_line(report))
    parts.append(_judgement(report))
    parts += unscored_kinds(report)
    parts += verdict_sentences(report)
    parts.append(_markdown_table(_retention_table(report)))
    if report.outcomes:
        parts.append(_markdown_table(_outcome_table(report)))
    parts += weak_stage_sentences(report)
    parts += unavailable_sentences(report)
    parts += confirmation_sentences(report)
    parts += finding_sentences(report)
    if report.diagnoses:
        parts.append(_cause_list(report))
    parts.append(_settings_block(report.settings))
    return "\n\n".join(parts)


def _versions_line(report: Report) -> str:
    return ", ".join(f"{name} {version}" for name, version in report.versions.items())


def _cause_list(report: Report) -> str:
    diagnoses = diagnoses_by_cause(report)
    return "\n".join(f"- {cause}: {len(of_cause)}" for cause, of_cause in diagnoses.items())


def _settings_block(settings: str) -> str:
    """The settings as YAML that is folded away."""
    # Folders in front of file names tell whose machine it is.
    anonymous = FOLDERS.sub("", settings.strip())
    return f"<details><summary>settings</summary>\n\n```yaml\n{anonymous}\n```\n\n</details>"


def _markdown_table(rows: Sequence[Row]) -> str:
    lines = list(map(_markdown_row, rows))
    # Below the header stands a rule.
    lines.insert(1, _markdown_row(["---"] * len(rows[0])))
    return "\n".join(lines)


def _markdown_row(row: Row) -> str:
    cells = [cell.replace("|", "\\|") for cell in row]
    return f"| {' | '.join(cells)} |"


def _counts_by_status(report: Report) -> str:
    return ", ".join(f"{number} {status}" for status, number in status_counts(report).items())


def _judgement(report: Report) -> str:
    rules = rule_names(report)
    names = " and ".join(f"`{rule}`" for rule in rules)
    plural = "s" if len(rules) > 1 else ""
    return f"{_counts_by_status(report)} by the {names} rule{plural}."


def _retention_table(report: Report) -> list[Row]:
    """Header and rows: share learned by stage (row) and stage checkpoint (column)."""
    checkpoints = [c.name for c in report.checkpoints if "@" not in c.name]
    rows = [["learned, % of", *checkpoints]]
    for stage, share_by_checkpoint in report.retention.items():
        rows.append([stage, *(percent(share_by_checkpoint[name]) for name in checkpoints)])
    return rows


def _outcome_table(report: Report) -> list[Row]:
    """Header and rows: what came of every mitigation, in counts of samples."""
    rows = [[*OUTCOME_COLUMNS], *map(_outcome_row, report.outcomes)]
    counts = [count_unscored(outcome.unscored_reasons) for outcome in report.outcomes]
    if any(counts):
        for row, cell in zip(rows, ["unscored", *map(str, counts)], strict=True):
            row.append(cell)
    return rows


def _outcome_row(outcome: Outcome) -> Row:
    return [
        outcome.mitigation,
        str(len(outcome.recovered)),
        _held_cell(outcome),
        str(len(outcome.regressed)),
        str(outcome.guard.lost) if outcome.guard else "-",
        _net_cell(outcome),
    ]


def _held_cell(outcome: Outcome) -> str:
    """Samples that other wordings bring out, or "-" where none could be asked in other words."""
    asked = held = 0
    for tally in outcome.causes.values():
        asked += tally.paraphrased
        held += tally.held
    return str(held) if asked else "-"


def _net_cell(outcome: Outcome) -> str:
    """The net recovery in percent with its interval, or "-" for what has no control."""
    if outcome.net_recovery is None or outcome.net_interval is None:
        return "-"
    low, high = outcome.net_interval
    return f"{outcome.net_recovery:+.0%} ({low:+.0%} to {high:+.0%})"
