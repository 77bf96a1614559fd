"""Scores of samples under checkpoints, wherever those are: wrong options, precision, cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import peft
import pyarrow as pa
import pyarrow.compute as pc
import torch
import transformers

from ilp_mlflow.core import cache
from ilp_mlflow.core.config import ScoringConfig, TokenizerConfig
from ilp_mlflow.core.terminal.notes import say_once
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.distractors import choose_distractors
from ilp_mlflow.data.samples import samples_digest
from ilp_mlflow.scoring import scorer
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.scoring.models.vocabularies import refuse_other_vocabulary
from ilp_mlflow.scoring.self_check import SelfCheck, check_scores
from ilp_mlflow.scoring.speaking.probe import ModelProbe
from ilp_mlflow.scoring.speaking.speaker import Speaker
from ilp_mlflow.scoring.tokens import encoding, token_trees
from ilp_mlflow.scoring.tokens.encoding import Tokenization
from ilp_mlflow.scoring.tokens.token_table import (
    answer_texts,
    first_choice_texts,
    scores_with_tokens,
    tokens_alone,
    without_tokens,
)
from ilp_mlflow.scoring.tokens.token_trees import ScoringPlan
from ilp_mlflow.scoring.verdicts import greedy, paper
from ilp_mlflow.tracking import model_registry
from ilp_mlflow.tracking.model_digest import model_digest

ANSWERS_ASKED = 6
"""Answers that a model is asked for when wrong ones are wanted."""
ANSWER_TOKENS = 32
"""Their length in tokens, at most."""
VERSIONS = [str(scorer.VERSION), torch.__version__, transformers.__version__, peft.__version__]
"""What scores depend on beside weights, tokens, device and precision."""
SELF_CHECK = b"ilp.self_check"
"""Where a table of scores carries how they were checked."""


class CheckedScores(NamedTuple):
    """Scores, and how those of every checkpoint stand to plain passes."""

    table: pa.Table
    """Columns of `Score`."""
    tokens: pa.Table
    """Columns sample_id, checkpoint and `token_table.COLUMNS`."""
    answer_texts: pa.Table
    """What the tokens of the right answers say: sample_id, texts."""
    first_choices: pa.Table
    """What the first choices among `tokens` say: id, text."""
    checks: list[SelfCheck]
    """One for every checkpoint and precision it was scored in."""


@dataclass(frozen=True)
class _Checkpoints:
    """The checkpoints of one call and what all of them are read with."""

    parts: dict[str, list[str]]
    """Folders or Hub ids that each is made of, base first, by name; the base first, too."""
    tokenization: Tokenization
    """Of the last one."""
    device: str
    """Where models run."""

    def digests(self, names: Sequence[str]) -> dict[str, str]:
        """Digest of every part that the checkpoints `names` are made of, by part."""
        digests = {}
        for name in names:
            for part in self.parts[name]:
                if part not in digests:
                    digests[part] = model_digest(part)
        return digests

    def loader(self, dtype: str) -> loading.ModelLoader:
        """What loads them one after the other."""
        return loading.ModelLoader(self.tokenization, self.device, dtype)


def choose_wrong_options(
    samples: Sequence[Sample],
    locations: Mapping[str, str],
    options: ScoringConfig,
    seed: int,
    tokenizer: TokenizerConfig | None = None,
    cached: bool = True,
) -> Mapping[str, tuple[str, ...]]:
    """Wrong options by sample id.

    Where the data has too few, the first and the last checkpoint are asked for answers. `locations`
    are the checkpoints (name -> location, the base first). With `cached`, models that were asked
    the same before are not loaded. Raises ModelError, see `score_checkpoints`.
    """

    def ask(lacking: Sequence[Sample]) -> Mapping[str, list[str]]:
        checkpoints = _find(samples, locations, options, tokenizer)
        return _model_answers(lacking, checkpoints, options, seed, cached)

    with task("choose wrong options"):
        return choose_distractors(samples, options.options, seed, ask)


def score_checkpoints(
    samples: Sequence[Sample],
    wrong: Mapping[str, Sequence[str]],
    locations: Mapping[str, str],
    options: ScoringConfig,
    seed: int,
    tokenizer: TokenizerConfig | None = None,
    cached: bool = True,
) -> pa.Table:
    """Scores of all samples under all checkpoints, in the columns of `Score`.

    As of `score_and_check`; a checkpoint that plain passes score otherwise is told.
    """
    scored = score_and_check(samples, wrong, locations, options, seed, tokenizer, cached)
    for check in scored.checks:
        if not check.agrees:
            say_once(
                f"{check.checkpoint}: its scores and those of plain passes differ by "
                f"{check.largest_difference:.2g} nats per token; do not go by them"
            )
    return scored.table


def score_and_check(
    samples: Sequence[Sample],
    wrong: Mapping[str, Sequence[str]],
    locations: Mapping[str, str],
    options: ScoringConfig,
    seed: int,
    tokenizer: TokenizerConfig | None = None,
    cached: bool = True,
) -> CheckedScores:
    """Scores of all samples under all checkpoints, and how they stand to plain passes.

    `wrong` are the wrong options by sample id, `locations` the checkpoints (name -> location, the
    base first). All checkpoints share one plan of batches, so differences are differences of
    weights. With `cached`, a checkpoint whose weights were scored on this plan before is not
    loaded: it was checked then.

    Raises ModelError when a checkpoint is not found or cannot be read, or has another vocabulary
    than the last one, and when a sample does not fit into memory.
    """
    checkpoints = _find(samples, locations, options, tokenizer)
    batch_tokens = options.batch_tokens
    plan = token_trees.plan_batches(samples, wrong, checkpoints.tokenization, batch_tokens)
    digests = checkpoints.digests(list(checkpoints.parts))
    score = partial(_score_plans, checkpoints=checkpoints, digests=digests, cached=cached)

    screened = score(dict.fromkeys(checkpoints.parts, plan), options.first_dtype)
    if options.dtype != "mixed":
        return _put_together(plan, checkpoints, screened, screened)
    # mixed precision: what is undecided in bfloat16 is scored again in float32
    decided, plans_again = dict[str, pa.Table](), dict[str, ScoringPlan]()
    for name, table in screened.items():
        if options.preset == "paper":
            undecided = pa.array(paper.may_turn_in_float32(table, seed))
        else:
            undecided = pa.array(greedy.may_turn_in_float32(table))
        decided[name] = table.filter(pc.invert(undecided))
        ids = table.filter(undecided)["sample_id"].to_pylist()
        if ids:
            plans_again[name] = plan.only(frozenset(ids))
    scored_again = score(plans_again, "float32")
    return _put_together(plan, checkpoints, decided, screened, scored_again)


def checkpoint_speaker(
    samples: Sequence[Sample],
    locations: Mapping[str, str],
    options: ScoringConfig,
    seed: int,
    tokenizer: TokenizerConfig | None = None,
    cached: bool = True,
) -> Speaker:
    """What lets the checkpoints at `locations` answer the prompts of `samples` by themselves.

    Models load when they are asked. Raises ModelError, see `score_and_check`.
    """
    checkpoints = _find(samples, locations, options, tokenizer)
    # `mixed` decides in float32, and so what is said decides
    dtype = "bfloat16" if options.dtype == "bfloat16" else "float32"
    loader = checkpoints.loader(dtype)

    def key(name: str) -> list[str]:
        parts = checkpoints.digests([name])
        return [*parts.values(), checkpoints.device, dtype, *VERSIONS]

    return Speaker(
        lambda name: loader(checkpoints.parts[name]),
        key,
        checkpoints.tokenization,
        options.batch_tokens,
        seed,
        cached,
    )


def _put_together(
    plan: ScoringPlan,
    checkpoints: _Checkpoints,
    scores: Mapping[str, pa.Table],
    screened: Mapping[str, pa.Table],
    scored_again: Mapping[str, pa.Table] | None = None,
) -> CheckedScores:
    """The scores of all checkpoints as one table, and the checks of all that was scored."""
    again = scored_again or {}
    checks = []
    for name, table in (*screened.items(), *again.items()):
        checks.append(_read_check(name, table))
    table = pa.concat_tables([*scores.values(), *again.values()]).replace_schema_metadata(None)
    tokenizer, tokens = checkpoints.tokenization.tokenizer, tokens_alone(table)
    return CheckedScores(
        without_tokens(table),
        tokens,
        answer_texts(plan, tokenizer),
        first_choice_texts(tokens, tokenizer),
        checks,
    )


def _read_check(name: str, table: pa.Table) -> SelfCheck:
    """How the scores of a checkpoint were checked; it may have had another name then."""
    check = SelfCheck.model_validate_json(table.schema.metadata[SELF_CHECK])
    return check.model_copy(update={"checkpoint": name})


def _score_plans(
    plans: Mapping[str, ScoringPlan],
    dtype: Literal["float32", "bfloat16"],
    *,
    checkpoints: _Checkpoints,
    digests: Mapping[str, str],
    cached: bool,
) -> dict[str, pa.Table]:
    """Scores of the plan of each checkpoint, by its name, from the cache where it has them."""
    loader = checkpoints.loader(dtype)
    tables = {}
    for name, plan in plans.items():
        parts = checkpoints.parts[name]
        part_digests = [digests[part] for part in parts]
        # all that scores depend on, and no name: other weights at the same place are other scores
        key = [plan.digest, *part_digests, checkpoints.device, dtype, *VERSIONS]
        table = cache.read(key) if cached else None
        if table is None:
            table = _score_plan(name, plan, parts, loader)
            # what does not agree is asked again the next time
            if cached and _read_check(name, table).agrees:
                cache.write(key, table)
        # the same weights may have been scored under another name
        names = pa.array([name] * table.num_rows, pa.string())
        tables[name] = table.set_column(1, "checkpoint", names)
    return tables


def _score_plan(
    name: str, plan: ScoringPlan, parts: Sequence[str], loader: loading.ModelLoader
) -> pa.Table:
    """Load a checkpoint, score it, and check a few rows by plain passes."""
    with task(f"load {name}"):
        loaded = loader(parts)
    scored = scorer.score_tokens(plan, loaded, name)
    with task(f"check scores of {name}"):
        check = check_scores(plan, loaded, name, [one.score for one in scored])
    metadata = {SELF_CHECK: check.model_dump_json()}
    return scores_with_tokens(scored).replace_schema_metadata(metadata)


def _find(
    samples: Sequence[Sample],
    locations: Mapping[str, str],
    options: ScoringConfig,
    tokenizer: TokenizerConfig | None,
) -> _Checkpoints:
    """The checkpoints at `locations`, once it is checked that the last one can encode `samples`."""
    parts = model_registry.resolve_all(locations)
    tokenization = read_last_tokenization(parts, tokenizer)
    encoding.check_encodable(tokenization.tokenizer, samples)
    return _Checkpoints(parts, tokenization, loading.pick_device(options.device))


def read_last_tokenization(
    parts: Mapping[str, Sequence[str]], tokenizer: TokenizerConfig | None
) -> Tokenization:
    """How the last checkpoint reads text, which all are scored with.

    It knows the form it was trained in, the base may have no chat template at all. `parts` are
    those of every checkpoint by name, the base first. Raises ModelError when one cannot be read
    (see `read_tokenization`), or has another vocabulary than the last one.
    """
    base = next(iter(parts.values()))
    read = {name: read_tokenization(p, tokenizer, base) for name, p in parts.items()}
    last = list(read.values())[-1]
    for name, text in read.items():
        refuse_other_vocabulary(name, text.tokenizer, last.tokenizer)
    return last


def _model_answers(
    lacking: Sequence[Sample],
    checkpoints: _Checkpoints,
    options: ScoringConfig,
    seed: int,
    cached: bool,
) -> dict[str, list[str]]:
    """Answers that the first and the last checkpoint give to the samples `lacking`, by id."""
    names = list(checkpoints.parts)
    first_and_last = list(dict.fromkeys([names[0], names[-1]]))
    dtype = options.first_dtype
    key = [
        "answers",
        samples_digest(lacking),
        checkpoints.tokenization.tokenizer.chat_template or "",
        str((seed, ANSWERS_ASKED, ANSWER_TOKENS)),
        *checkpoints.digests(first_and_last).values(),
        checkpoints.device,
        dtype,
        *VERSIONS,
    ]
    # sampling is seeded, so the same question to the same weights has the same answer
    table = cache.read(key) if cached else None
    if table is None:
        probe = _probe(checkpoints, dtype, options.batch_tokens, seed)
        table = _ask(lacking, first_and_last, probe, checkpoints.tokenization)
        if cached:
            cache.write(key, table)
    return {row["sample_id"]: row["answers"] for row in table.to_pylist()}


def _probe(checkpoints: _Checkpoints, dtype: str, batch_tokens: int, seed: int) -> ModelProbe:
    """A probe of the checkpoints in which all read and end text as the last one does."""
    loader = checkpoints.loader(dtype)
    return ModelProbe(lambda name: loader(checkpoints.parts[name]), batch_tokens, seed)


def _ask(
    lacking: Sequence[Sample], names: Sequence[str], probe: ModelProbe, tokenization: Tokenization
) -> pa.Table:
    """What checkpoints answer when sampled: columns sample_id and answers (list of text)."""
    answers_by_id: dict[str, list[str]] = {sample.id: [] for sample in lacking}
    for name in names:
        with task(f"ask {name} for wrong answers", len(lacking)) as advance:
            for sample in lacking:
                (answers,) = probe.generate(name, [sample.prompt], ANSWERS_ASKED, ANSWER_TOKENS)
                usable = [answer for answer in answers if _is_usable(answer, tokenization)]
                answers_by_id[sample.id] += usable
                advance(1)
    answers = pa.array(list(answers_by_id.values()), pa.list_(pa.string()))
    return pa.table({"sample_id": list(answers_by_id), "answers": answers})


def _is_usable(answer: str, tokenization: Tokenization) -> bool:
    """Whether an answer, or its first line, was not cut off, and is text."""
    has_whole_line = "\n" in answer.strip()
    tokens = len(tokenization.tokenizer(answer)["input_ids"])
    is_whole = has_whole_line or tokens < ANSWER_TOKENS
    # no broken character, no tag such as <think>
    is_text = "\ufffd" not in answer and not answer.lstrip().startswith("<")
    return is_whole and is_text
