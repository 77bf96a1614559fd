"""Everything known of a run, the diagnostics that are asked about it, and what they say."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from ilp_mlflow import beliefs, catalog, diagnosis, judge, models, paper, registry, tracking, training, verdict
from ilp_mlflow.config import Experiment, ScoringConfig, TokenizerConfig
from ilp_mlflow.encoding import last_turn, reworded
from ilp_mlflow.errors import PluginError
from ilp_mlflow.plugin import TAUGHT, Belief, Context, Diagnostic
from ilp_mlflow.probe import ModelProbe
from ilp_mlflow.progress import task
from ilp_mlflow.recognition import recognition
from ilp_mlflow.report import UNEXPLAINED
from ilp_mlflow.stage import copy_after
from ilp_mlflow.types import Checkpoint, Diagnosis, Evidence, Sample, Stage, Text, Verdict, as_json, to_rows

SHOWN = 1000
"""Rows of the table that the MLflow UI shows; all rows are in Parquet."""
LEFT = ("exposures", "signals")
"""What training leaves behind for the diagnosis, beside the models: tables on its run."""


def explain(experiment: Experiment, run_id: str, samples: Sequence[Sample], preset: str = "default") -> list[Diagnosis]:
    """What `diagnose` would say of `samples` of a diagnosed run by the causes of `preset`; nothing is logged. Raises IlpError."""
    plugins = registry.configured("diagnostic", experiment.diagnostics)
    scores = tracking.read_table(run_id, "scores.parquet")
    return _asked(plugins, context(experiment, samples, tracking.read_checkpoints(run_id), scores, run_id), preset, None)


def conclude(
    run_id: str, plugins: Mapping[str, Diagnostic], context: Context, preset: verdict.Preset, seed: int, beside: str | None = None
) -> tuple[list[Diagnosis], dict[str, float]]:
    """Ask `plugins` (in the preset `paper` the study's own tests) about every unlearned sample, and log what they say on the run.

    What is logged there goes to the run `beside`, too, as far as the UI shows it: metrics, which there are tied to models and data
    sets, and the table. Returned are the diagnoses and the metrics `unlearned_rate`, `cause/<name>`, `forgetting/<stage>` and
    `backward_transfer`. A diagnostic that raises is reported on the run and left out.
    """
    found = _asked(plugins, context, preset, run_id)
    samples, names = list(context.samples.values()), [c.name for c in context.checkpoints]
    rule = names, preset, seed
    with task("log diagnoses", 3) as advance:
        shares = verdict.retention(context.scores, {s.id: s.stage for s in samples}, *rule)
        metrics = _metrics(found, len(samples), shares)
        earlier = {name: 0.0 for name in tracking.metrics(run_id) if name.startswith("cause/")}
        tracking.log(run_id, metrics=earlier | metrics)
        leaks = recognition(context.scores, names)["blank"]
        for step, name in enumerate(names):
            learned = {f"learned/{stage}": row[name] for stage, row in shares.items()}
            tracking.log(run_id, metrics=learned | ({"leak": leaks[name]} if name in leaks else {}), step=step)
        if beside:
            _tie(beside, context, metrics, shares)
        advance(1)
        table = diagnosis.table(samples, context.verdicts, verdict.histories(context.scores, *rule), names, found)
        tracking.write(run_id, "diagnosis.parquet", table)
        for shown in (run_id, beside) if beside else (run_id,):
            tracking.write_table(shown, "diagnosis.json", table.slice(0, SHOWN))
        advance(1)
        tracking.write(run_id, "diagnoses.json", as_json(found))
        advance(1)
    return found, metrics


def _metrics(found: Sequence[Diagnosis], total: int, shares: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What a run says of its diagnoses in numbers; `shares` are the learned ones by stage and checkpoint."""
    metrics = {"unlearned_rate": len(found) / total}
    metrics |= {f"cause/{cause}": share for cause, share in diagnosis.cause_shares(found, total).items()}
    metrics |= {f"forgetting/{stage}": lost for stage, lost in verdict.forgetting(shares).items()}
    transfer = verdict.backward_transfer(shares)
    return metrics if transfer is None else {**metrics, "backward_transfer": transfer}


def _tie(run_id: str, context: Context, metrics: Mapping[str, float], shares: Mapping[str, Mapping[str, float]]) -> None:
    """Log metrics on a run together with the models and data sets that they are of."""
    ids = [catalog.model_id(c.model_uri) for c in context.checkpoints]
    catalog.log_inputs(run_id, [c.model_uri for c in context.checkpoints])
    tracking.log(run_id, metrics=metrics, model=ids[-1])
    for stage in context.stages:
        data = tracking.data(stage.name, stage.samples)
        for step, (checkpoint, model) in enumerate(zip(context.checkpoints, ids, strict=True)):
            learned = {f"learned/{stage.name}": shares[stage.name][checkpoint.name]}
            tracking.log(run_id, metrics=learned, step=step, model=model, data=data)


def context(
    experiment: Experiment, samples: Sequence[Sample], checkpoints: Sequence[Checkpoint], scores: pa.Table, run_id: str
) -> Context:
    """All that is known of a run: `scores` of `samples`, and what its training left behind."""
    stages = [s.as_stage([x for x in samples if x.stage == s.name], experiment.seed) for s in experiment.stages]
    found = known(samples, stages, checkpoints, scores, experiment.scoring, experiment.seed, experiment.tokenizer)
    left = {name: tracking.read_table(run_id, f"{name}.parquet") for name in LEFT if tracking.has(run_id, f"{name}.parquet")}

    ours = tracking.tags(run_id).get("ilp.trained") == "true"

    def relearned(stage: Stage, exchanges: Sequence[tuple[Text, Text]]) -> list[float]:
        copy = copy_after(experiment, stage, checkpoints[-1].model_uri)
        return ModelProbe(lambda name: copy, experiment.scoring.batch_tokens).logprobs("copy", exchanges)

    return replace(found, relearn=relearned if ours and "exposures" in left else None, **left)  # elsewhere, nobody knows how


def known(
    samples: Sequence[Sample],
    stages: Sequence[Stage],
    checkpoints: Sequence[Checkpoint],
    scores: pa.Table,
    scoring: ScoringConfig,
    seed: int,
    tokenizer: TokenizerConfig | None = None,
) -> Context:
    """What `scores` say of `samples`, judged by `scoring`, without a ledger of training; models are loaded when they are asked."""
    names = [c.name for c in checkpoints]
    rule = names, scoring.preset, seed
    uris = {c.name: c.model_uri for c in checkpoints}
    load = models.Loader(tokenizer, models.pick_device(scoring.device), scoring.first_dtype)
    parts = functools.partial(catalog.locate, base=checkpoints[0].model_uri)

    @functools.cache
    def text() -> models.Text:
        return models.read(parts(uris[names[-1]]), tokenizer)  # the base may have no chat template at all

    def loaded(name: str) -> models.Loaded:
        return replace(load(parts(uris[name])), tokenizer=text().tokenizer, ends=text().ends)

    probe = ModelProbe(loaded, scoring.batch_tokens, seed)
    verdicts = {v.sample_id: v for v in to_rows(verdict.verdicts(scores, *rule), Verdict)}

    unlearned, learned = ([s for s in samples if verdicts[s.id].status == status] for status in ("unlearned", "learned"))
    drawn = random.Random(seed).sample(unlearned, scoring.asked) if len(unlearned) > scoring.asked else unlearned
    asked = frozenset(s.id for s in drawn)

    @functools.cache
    def believed() -> dict[str, Belief]:
        write = wordings(scoring)
        worded = (lambda s: [reworded(s.prompt, text) for text in write(s)]) if write else None
        barely = {stage for stage, share in whole.taught.items() if share < TAUGHT}
        return beliefs.beliefs(unlearned, learned, names[0], probe, seed, worded, asked, barely)

    whole = Context(
        stages=stages,
        checkpoints=checkpoints,
        samples={s.id: s for s in samples},
        scores=scores,
        verdicts=verdicts,
        histories=verdict.histories(scores, *rule),
        probe=probe,
        asked=asked,
        beliefs=believed,
        fits=lambda stage, sample: training.fits(stage, sample, text()),
    )
    return whole


def wordings(scoring: ScoringConfig) -> Callable[[Sample], list[str]] | None:
    """What words prompts otherwise, by the judge `scoring.writer`; one that fails is told, and not asked again. None without it."""
    model, failed = scoring.writer, list[PluginError]()

    @functools.cache
    def write(question: str) -> list[str]:
        if failed:
            return []
        try:
            return judge.wordings(str(model), question)
        except PluginError as error:
            failed.append(error)
            print(f"ilp: prompts stay as they are: {error}", file=sys.stderr)
            return []

    return (lambda sample: write(last_turn(sample.prompt))) if model else None


def _asked(plugins: Mapping[str, Diagnostic], context: Context, preset: str, run_id: str | None) -> list[Diagnosis]:
    """A diagnosis of every unlearned sample: by the evidence of `plugins`, in the preset `paper` by the study's own tests.

    A diagnostic that raises is left out, told, and noted on the run.
    """
    unlearned = [s for i, s in context.samples.items() if context.verdicts[i].status == "unlearned"]
    verdicts = [context.verdicts[i] for i in context.samples]
    weighed = diagnosis.without_ledger if context.exposures is None else dict
    if preset == "paper":
        return diagnosis.attribute(verdicts, weighed(paper.examine(unlearned, context)), paper.ORDER)
    evidence = {}
    with task("diagnostics", len(plugins)) as advance:
        for name, plugin in plugins.items():
            try:
                with task(name):
                    evidence[name] = _examine(plugin, unlearned, context)
            except Exception as error:  # a plugin may fail in any way, alone
                print(f"ilp: diagnostic '{name}' failed and is left out: {type(error).__name__}: {error}", file=sys.stderr)
                if run_id:
                    tracking.log(run_id, tags={f"ilp.failed.{name}": f"{type(error).__name__}: {error}"[:500]})
            advance(1)
    return diagnosis.attribute(verdicts, weighed(evidence))


def _examine(plugin: Diagnostic, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
    found = plugin.examine(unlearned, context)
    for evidence in found.values():
        if not isinstance(evidence, Evidence) or evidence.cause in (*diagnosis.COLUMNS, UNEXPLAINED):
            raise PluginError(f"not evidence with a cause of its own: {evidence!r}")
    strangers = set(found) - {s.id for s in unlearned}
    if strangers:
        raise PluginError(f"evidence for '{min(strangers)}', which it was not asked about")
    return found
