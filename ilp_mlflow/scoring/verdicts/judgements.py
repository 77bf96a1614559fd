"""Judge scored samples: each row by its rule, under one checkpoint after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.config import ALL_ROWS, ScoringConfig
from ilp_mlflow.core.errors import IlpError, PluginError, first_line
from ilp_mlflow.core.finite_scores import NOT_FINITE
from ilp_mlflow.core.values import Judgement, Sample, schema
from ilp_mlflow.core.verdict_rules import (
    AnswerTokens,
    Generate,
    Judged,
    ScoredRows,
    VerdictRule,
)
from ilp_mlflow.scoring.verdicts.columns import gave_no_number
from ilp_mlflow.scoring.verdicts.greedy import Greedy
from ilp_mlflow.scoring.verdicts.long import Long
from ilp_mlflow.scoring.verdicts.paper import Paper
from ilp_mlflow.scoring.verdicts.statuses import STATUSES

if TYPE_CHECKING:
    import pyarrow as pa

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
"""The columns of a score table that rules read which go by scores alone."""
SHARED_TEXTS = ("checkpoint", "status", "reason", "rule", "grade")
"""Columns of judgements whose texts are few."""
LONG_TOKENS = 64
"""Supervised tokens from which an answer is long, and judged as such unless told otherwise."""


@dataclass(frozen=True)
class Evidence:
    """What there is beside scores for rules to judge by; nothing, where scores come alone."""

    samples: Sequence[Sample] = ()
    """The samples."""
    tokens: pa.Table | None = None
    """What checkpoints give for the tokens of their answers: sample_id, checkpoint and lists."""
    controls: Sequence[Sample] = ()
    """Rows that no stage trains."""
    control_tokens: pa.Table | None = None
    """The same for the answers of those."""
    speaker: Callable[[str], Generate] | None = None
    """Lets a checkpoint speak, by its name."""
    has_base: bool = True
    """Whether the first checkpoint is the base."""

    @cached_property
    def samples_by_id(self) -> dict[str, Sample]:
        """The samples by id."""
        return {sample.id: sample for sample in self.samples}

    @cached_property
    def control_sources(self) -> dict[str, str]:
        """Sources of the controls by id."""
        return {sample.id: sample.source or "" for sample in self.controls}


@dataclass(frozen=True)
class Judges:
    """The rules of an experiment, and which rows each judges."""

    rules: Mapping[str, VerdictRule]
    """By key: those by default have their name for one."""
    by_group: Mapping[str, str] = field(default_factory=dict)
    """Keys of rules by source or stage of rows, or ALL_ROWS."""
    every_row: str = ""
    """Key of the one rule of all rows; "" where they are judged each by its own."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of rules by key, where that is another one: two groups may have one rule with other
    options."""

    def keys(self, scores: pa.Table, samples: Mapping[str, Sample]) -> npt.NDArray[np.object_]:
        """(rows,): the key of the rule of each row of `scores`."""
        if self.every_row:
            return np.full(scores.num_rows, self.every_row, object)
        # without its text a long answer can be judged by its scores alone
        is_long = (scores["tokens"].to_numpy() >= LONG_TOKENS) & bool(samples)
        keys = np.where(is_long, "long", "greedy").astype(object)
        if self.by_group:
            for place, sample_id in enumerate(scores["sample_id"].to_pylist()):
                sample = samples.get(sample_id)
                named = self._named(sample) if sample else self.by_group.get(ALL_ROWS)
                keys[place] = named or keys[place]
        return keys

    def _named(self, sample: Sample) -> str | None:
        """Key of the rule for a sample: for its source, else its stage, else all rows."""
        for group in (sample.source, sample.stage, ALL_ROWS):
            if group is not None and group in self.by_group:
                return self.by_group[group]
        return None


def read_judges(scoring: ScoringConfig) -> Judges:
    """The rules that judge rows scored so. Raises PluginError for one that cannot be used."""
    if scoring.preset == "paper":
        return Judges({"paper": Paper()}, every_row="paper")
    rules: dict[str, VerdictRule] = {"greedy": Greedy(), "long": Long()}
    by_group, names = {}, {}
    for group, named in scoring.verdicts.items():
        ((name, options),) = named.items()
        key = by_group[group] = f"{name} of {group}"
        rules[key] = plugin_loader.configure("verdict", {name: options})[name]
        names[key] = name
    return Judges(rules, by_group, names=names)


def judge(
    scores: pa.Table,
    checkpoints: Sequence[str],
    judges: Judges,
    seed: int = 0,
    evidence: Evidence | None = None,
) -> pa.Table:
    """A judgement of every row of `scores`, in the columns of `Judgement`.

    `checkpoints` are in order, the base first; scores of others are left out. A row that says
    itself that it is unscored is, and so is one with nan or infinity for a number. Raises
    PluginError for a rule that fails, or gives another number of judgements than it has rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    evidence = evidence or Evidence()
    tables = []
    for name in checkpoints:
        rows = scores.filter(pc.equal(scores["checkpoint"], name))
        is_base = evidence.has_base and name == checkpoints[0]
        tables.append(_judge_checkpoint(name, is_base, rows, judges, seed, evidence))
    return pa.concat_tables(tables) if tables else _compact(schema(Judgement).empty_table())


def _judge_checkpoint(
    checkpoint: str, is_base: bool, scores: pa.Table, judges: Judges, seed: int, evidence: Evidence
) -> pa.Table:
    """The judgements of the rows of one checkpoint."""
    import pyarrow as pa
    import pyarrow.compute as pc

    no_number = pa.array(gave_no_number(scores))
    reasons = pc.if_else(no_number, NOT_FINITE, scores["unscored"].combine_chunks())
    is_unscored = reasons.is_valid()
    unscored = scores.filter(is_unscored)
    tables = [_unscored_table(unscored, reasons.drop_null())] if unscored.num_rows else []
    scored = scores.filter(pc.invert(is_unscored))
    keys = judges.keys(scored, evidence.samples_by_id)
    for key in dict.fromkeys(keys.tolist()):
        rows = scored.filter(pa.array(keys == key))
        rule, name = judges.rules[key], judges.names.get(key, key)
        if rule.needs_samples:
            known = pc.is_in(rows["sample_id"], pa.array(list(evidence.samples_by_id), pa.string()))
            unknown = rows.filter(pc.invert(known))
            why = [f"the rule '{name}' needs the row's text"] * unknown.num_rows
            tables.append(_unscored_table(unknown, pa.array(why, pa.string())))
            rows = rows.filter(known)
            if not rows.num_rows:
                continue
        speaker = evidence.speaker(checkpoint) if evidence.speaker else None
        given = ScoredRows(
            checkpoint=checkpoint,
            is_base=is_base,
            scores=rows,
            seed=seed,
            samples_by_id=evidence.samples_by_id,
            tokens=partial(_tokens_by_id, evidence.tokens, checkpoint, rows),
            base_tokens=partial(_base_tokens_by_id, evidence, evidence.tokens, rows),
            controls=partial(_tokens_by_id, evidence.control_tokens, checkpoint),
            base_controls=partial(_base_tokens_by_id, evidence, evidence.control_tokens),
            control_sources=evidence.control_sources,
            generate=speaker,
        )
        tables.append(_judged_table(name, rows, _ask(name, rule, given)))
    return pa.concat_tables(tables) if tables else _compact(schema(Judgement).empty_table())


def _ask(name: str, rule: VerdictRule, rows: ScoredRows) -> Judged:
    """What a rule says.

    Raises PluginError where it fails, gives too few or too many, or a status that there is not.
    """
    import pyarrow.compute as pc

    try:
        judged = rule.judge(rows)
    except IlpError:
        raise
    # a plugin may fail in any way
    except Exception as error:
        raise PluginError(
            f"verdict '{name}' failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    lengths = {len(judged.statuses), len(judged.margins), len(judged.reasons)}
    if lengths != {rows.scores.num_rows}:
        raise PluginError(
            f"verdict '{name}' was given {rows.scores.num_rows} rows and returned "
            f"{', '.join(map(str, sorted(lengths)))} statuses, margins or reasons; it must return "
            "one of each for every row"
        )
    unknown = set(pc.unique(_texts(judged.statuses)).to_pylist()) - set(STATUSES)
    if unknown:
        raise PluginError(
            f"verdict '{name}' returned the status {min(map(repr, unknown))}; statuses are "
            f"{', '.join(STATUSES)}"
        )
    return judged


def _judged_table(name: str, rows: pa.Table, judged: Judged) -> pa.Table:
    import pyarrow as pa

    grades = judged.grades
    if grades is None:
        grades = pa.nulls(rows.num_rows, pa.string())
    columns = [
        rows["sample_id"],
        rows["checkpoint"],
        _texts(judged.statuses),
        pa.array(judged.margins, pa.float64(), from_pandas=True),
        _texts(judged.reasons),
        pa.array([name] * rows.num_rows, pa.string()),
        _texts(grades),
    ]
    return _compact(pa.table(columns, schema=schema(Judgement)))


def _compact(table: pa.Table) -> pa.Table:
    """Texts that many rows share are held once: there may be millions of judgements."""
    for name in SHARED_TEXTS:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].dictionary_encode())
    return table


def _texts(values: object) -> pa.Array:
    import pyarrow as pa

    is_arrow = isinstance(values, pa.Array | pa.ChunkedArray)
    return values if is_arrow else pa.array(values, pa.string())


def _unscored_table(rows: pa.Table, reasons: pa.Array) -> pa.Table:
    import pyarrow as pa

    n = rows.num_rows
    columns = [
        rows["sample_id"],
        rows["checkpoint"],
        pa.array(["unscored"] * n, pa.string()),
        pa.nulls(n, pa.float64()),
        reasons,
        pa.array([""] * n, pa.string()),
        pa.nulls(n, pa.string()),
    ]
    return _compact(pa.table(columns, schema=schema(Judgement)))


def _tokens_by_id(
    tokens: pa.Table | None, checkpoint: str, rows: pa.Table | None = None
) -> dict[str, AnswerTokens]:
    """What a checkpoint gives for the tokens of the answers of `rows`, or of all, by sample id."""
    import pyarrow.compute as pc

    if tokens is None:
        return {}
    wanted = tokens.filter(pc.equal(tokens["checkpoint"], checkpoint))
    if rows is not None:
        wanted = wanted.filter(pc.is_in(wanted["sample_id"], rows["sample_id"].combine_chunks()))
    by_id = {}
    lists = [wanted[name].combine_chunks() for name in AnswerTokens._fields]
    for place, sample_id in enumerate(wanted["sample_id"].to_pylist()):
        numbers = [column[place].values.to_numpy() for column in lists]
        by_id[sample_id] = AnswerTokens(*numbers)
    return by_id


def _base_tokens_by_id(
    evidence: Evidence, tokens: pa.Table | None, rows: pa.Table | None = None
) -> dict[str, AnswerTokens]:
    """The same of the base, whose rows come first."""
    if tokens is None or not tokens.num_rows or not evidence.has_base:
        return {}
    return _tokens_by_id(tokens, tokens["checkpoint"][0].as_py(), rows)
