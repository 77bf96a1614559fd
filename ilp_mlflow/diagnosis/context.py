"""Everything that is known of a run when its unlearned samples are explained."""

from __future__ import annotations

import functools
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pyarrow as pa

from ilp_mlflow.core.config import Experiment, ScoringConfig, TokenizerConfig
from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE, Belief, Context
from ilp_mlflow.core.texts import Text, last_turn, with_last_turn
from ilp_mlflow.core.training_log import TrainingLog
from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Checkpoint, Sample, Stage, Status, Verdict, to_rows
from ilp_mlflow.data.held_out import HeldOutRows
from ilp_mlflow.diagnosis.beliefs.read import read_beliefs
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.text.last_model import read_last_model
from ilp_mlflow.scoring.checkpoints import read_last_tokenization
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.models.weight_facts import WeightFacts
from ilp_mlflow.scoring.self_check import SelfCheck
from ilp_mlflow.scoring.speaking.probe import ModelProbe
from ilp_mlflow.scoring.tokens.encoding import Tokenization
from ilp_mlflow.scoring.verdicts.timeline import status_histories, verdict_table
from ilp_mlflow.tracking import llm_judge, model_registry, runs
from ilp_mlflow.training.accounts.ledger_note import LedgerNote
from ilp_mlflow.training.accounts.row_account import RowAccount
from ilp_mlflow.training.stage import train_copy
from ilp_mlflow.training.trainer import answer_fits

V = TypeVar("V", bound=Value)
TRAINING_TABLES = ("exposures", "signals")
"""Tables that training leaves on its run for the diagnosis, beside the models."""


@dataclass(frozen=True)
class ScoredSamples:
    """Samples with their scores, and the models that gave them, which load when they are asked."""

    samples: Sequence[Sample]
    """All that were scored."""
    stages: Sequence[Stage]
    """The stages that trained them, in order."""
    checkpoints: Sequence[Checkpoint]
    """Base first."""
    scores: pa.Table
    """Columns of `Score`."""
    judgements: pa.Table
    """Columns of `Judgement`."""
    scoring: ScoringConfig
    """How models are asked."""
    seed: int
    """Of all that is drawn at random."""
    tokenizer: TokenizerConfig | None = None
    """Tokenizer and chat template in place of the models' own."""

    @functools.cached_property
    def context(self) -> Context:
        """All that scores and models tell; nothing is known of how the models were trained."""
        histories = status_histories(self.judgements, self._names)
        return Context(
            stages=self.stages,
            checkpoints=self.checkpoints,
            samples={s.id: s for s in self.samples},
            scores=self.scores,
            verdicts=self._verdicts,
            histories=histories,
            probe=self._probe,
            asked=self._asked,
            # To ask takes minutes, so it waits until a diagnostic wants to know.
            beliefs=lambda: self._beliefs,
            fits=lambda stage, sample: answer_fits(stage, sample, self._tokenization),
        )

    @functools.cached_property
    def _names(self) -> list[str]:
        return [checkpoint.name for checkpoint in self.checkpoints]

    @functools.cached_property
    def _verdicts(self) -> dict[str, Verdict]:
        """By sample id."""
        table = verdict_table(self.judgements, self._names)
        return {verdict.sample_id: verdict for verdict in to_rows(table, Verdict)}

    def _with_status(self, status: Status) -> list[Sample]:
        return [s for s in self.samples if self._verdicts[s.id].status == status]

    @functools.cached_property
    def _asked(self) -> frozenset[str]:
        """Ids of the unlearned samples that models are asked about: `scoring.asked` at most."""
        unlearned = self._with_status("unlearned")
        # Drawn at random: shares of causes among those that are asked then hold for all.
        if len(unlearned) > self.scoring.asked:
            unlearned = random.Random(self.seed).sample(unlearned, self.scoring.asked)
        return frozenset(s.id for s in unlearned)

    @functools.cached_property
    def _probe(self) -> ModelProbe:
        # Read when the first model is asked for: scores alone come without models.
        return ModelProbe(
            lambda checkpoint: self._loader(self._parts[checkpoint]),
            self.scoring.batch_tokens,
            self.seed,
        )

    @functools.cached_property
    def _loader(self) -> loading.ModelLoader:
        device = loading.pick_device(self.scoring.device)
        return loading.ModelLoader(self._tokenization, device, self.scoring.first_dtype)

    @functools.cached_property
    def _tokenization(self) -> Tokenization:
        """How the last checkpoint reads text."""
        return read_last_tokenization(self._parts, self.tokenizer)

    @functools.cached_property
    def _parts(self) -> dict[str, list[str]]:
        """The parts that the model of each checkpoint is made of."""
        return model_registry.resolve_all({c.name: c.model_uri for c in self.checkpoints})

    @functools.cached_property
    def _beliefs(self) -> dict[str, Belief]:
        """What the base says about the unlearned samples it may be asked about, by id."""
        # Learned samples are asked too: they show what the base knows of what can be learned.
        taught = self.context.taught
        return read_beliefs(
            self._with_status("unlearned"),
            self._with_status("learned"),
            self._names[0],
            self._probe,
            self.seed,
            _prompt_rewriter(self.scoring),
            self._asked,
            {stage for stage, share in taught.items() if share < MIN_TAUGHT_SHARE},
        )


def build_context(
    experiment: Experiment,
    samples: Sequence[Sample],
    checkpoints: Sequence[Checkpoint],
    run_id: str,
) -> Context:
    """All that is known of a scored run: what `samples` came to, and what its training left behind.

    Raises TrackingError where the run has no scores.
    """
    stages = []
    for config in experiment.stages:
        rows = [s for s in samples if s.stage == config.name]
        stages.append(config.as_stage(rows, experiment.seed))
    scored = ScoredSamples(
        samples,
        stages,
        checkpoints,
        runs.read_table(run_id, "scores.parquet"),
        runs.read_table(run_id, "judgements.parquet"),
        experiment.scoring,
        experiment.seed,
        experiment.tokenizer,
    )

    def relearn(stage: Stage, exchanges: Sequence[tuple[Text, Text]]) -> list[float]:
        copy = train_copy(experiment, stage, checkpoints[-1].model_uri)
        probe = ModelProbe(lambda name: copy, experiment.scoring.batch_tokens)
        return probe.logprobs("copy", exchanges)

    exposures = _training_table(run_id, "exposures")
    # Of models that were trained elsewhere nobody knows how, so they cannot be trained again.
    trained_here = runs.tags(run_id).get("ilp.trained") == "true" and exposures is not None
    return replace(
        scored.context,
        exposures=exposures,
        signals=_training_table(run_id, "signals"),
        relearn=relearn if trained_here else None,
    )


def read_facts(run_id: str, context: Context, tokenizer: TokenizerConfig | None = None) -> RunFacts:
    """What a run left behind for its faults to be read from; `tokenizer` is the experiment's."""
    accounts = {}
    if runs.has(run_id, "accounts.parquet"):
        table = runs.read_table(run_id, "accounts.parquet")
        accounts = {account.sample_id: account for account in to_rows(table, RowAccount)}
    held_out = _read_values(run_id, "held_out.json", HeldOutRows)
    weights = _read_values(run_id, "weights.json", WeightFacts)
    return RunFacts(
        context,
        accounts,
        logs={log.stage: log for log in read_logs(run_id)},
        ledgers={n.stage: n for n in _read_values(run_id, "ledgers.json", LedgerNote)},
        held_out=held_out[0] if held_out else None,
        followed=context.exposures is not None,
        weights=weights[0] if weights else WeightFacts(),
        self_checks=_read_values(run_id, "self_check.json", SelfCheck),
        last_model=functools.cache(lambda: read_last_model(context, tokenizer)),
    )


def read_logs(run_id: str) -> list[TrainingLog]:
    """What the stages of a run logged while they were trained, as far as that is known."""
    return _read_values(run_id, "training_logs.json", TrainingLog)


def _read_values(run_id: str, file: str, kind: type[V]) -> list[V]:
    """The values in a JSON artifact, one or a list of them; none where the run does not have it."""
    if not runs.has(run_id, file):
        return []
    content = json.loads(runs.read(run_id, file))
    values = content if isinstance(content, list) else [content]
    return [kind.model_validate(value) for value in values]


def _training_table(run_id: str, name: str) -> pa.Table | None:
    """One of TRAINING_TABLES; None where training did not leave it behind."""
    file = f"{name}.parquet"
    return runs.read_table(run_id, file) if runs.has(run_id, file) else None


def _prompt_rewriter(scoring: ScoringConfig) -> Callable[[Sample], list[Text]] | None:
    """What gives a sample's prompt in other words, as `question_rewriter` finds them."""
    write = question_rewriter(scoring)
    if write is None:
        return None
    return lambda sample: [with_last_turn(sample.prompt, words) for words in write(sample)]


def question_rewriter(scoring: ScoringConfig) -> Callable[[Sample], list[str]] | None:
    """What words a prompt's last turn otherwise, by the judge `scoring.writer`; None without one.

    A judge that fails is told, and not asked again.
    """
    model = scoring.writer
    if not model:
        return None
    failures: list[PluginError] = []

    @functools.cache
    def write(question: str) -> list[str]:
        if failures:
            return []
        try:
            return llm_judge.reword_question(model, question)
        except PluginError as error:
            failures.append(error)
            print(f"ilp: prompts stay as they are: {error}", file=sys.stderr)
            return []

    return lambda sample: write(last_turn(sample.prompt))
