"""Mitigations tried one by one, side by side or composed into one; the best is registered."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.interfaces import Context, Mitigation
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Diagnosis, Outcome, Plan, Request, Sample, unlearned_share
from ilp_mlflow.data.held_out import load_held_out
from ilp_mlflow.diagnosis.context import build_context, question_rewriter
from ilp_mlflow.mitigation.compose import (
    Candidate,
    Planner,
    as_candidate,
    choose_mitigations,
    compose_plans,
    expected_recovery,
    names_of,
    next_combination,
)
from ilp_mlflow.mitigation.outcome import recommended
from ilp_mlflow.mitigation.plans import checked_plan
from ilp_mlflow.mitigation.side_effects import ask_questions, plan_questions
from ilp_mlflow.mitigation.trial import Baseline, run_trial
from ilp_mlflow.scoring.verdicts.unscored import count_unscored
from ilp_mlflow.tracking import model_registry, projects, runs

ALIAS = "mitigated"
"""Alias of the registered model that the recommended mitigation leads to."""
MAX_PARAMETER = 500
"""Characters of a mitigation's option that are logged as a parameter of its run."""
NO_TARGETS = "no unlearned sample has a cause that this mitigation targets"
"""Why a mitigation that plans nothing was not tried."""


@dataclass(frozen=True)
class SearchOptions:
    """What `mitigate` is asked for."""

    plan: Literal["each", "auto"] = "each"
    """Every mitigation by itself, or those that fit the causes composed into one."""
    only: tuple[str, ...] = ()
    """Names of the mitigations to try; () for all."""
    max_unlearned: float | None = None
    """With `auto`: share 0..1 of unlearned samples at which to stop."""
    budget: float | None = None
    """Seconds after which nothing more is begun."""
    jobs: int = 1
    """Mitigations tried at the same time, with `launch: project`."""
    alone: bool = False
    """This process is a project run of one mitigation: whoever launched it reads the outcome."""


@dataclass
class SearchResult:
    """What came of mitigations."""

    outcomes: list[Outcome] = field(default_factory=list)
    """Of those that were tried."""
    requests: dict[str, Request] = field(default_factory=dict)
    """What those that lack data ask for, by name."""
    failed: list[str] = field(default_factory=list)
    """A sentence for each that failed."""


def read_baseline(experiment: Experiment, run_id: str, samples: Sequence[Sample]) -> Baseline:
    """What is known of a diagnosed run before anything is tried. Raises IlpError."""
    checkpoints = runs.read_checkpoints(run_id)
    held_out = load_held_out(experiment)
    context = build_context(experiment, samples, checkpoints, run_id)
    # for mitigations that watch rows which are not trained; no diagnostic sees them
    context = replace(context, held_out=held_out)
    diagnoses = []
    # one per unlearned sample
    for record in json.loads(runs.read(run_id, "diagnoses.json")):
        diagnoses.append(Diagnosis.model_validate(record))
    unlearned = [context.samples[diagnosis.verdict.sample_id] for diagnosis in diagnoses]
    with task("ask in other words"):
        write = question_rewriter(experiment.scoring)
        questions = plan_questions(unlearned, samples, held_out, experiment.seed, write)
        base_uri, last_uri = checkpoints[0].model_uri, checkpoints[-1].model_uri
        answers = ask_questions(questions, base_uri, last_uri, experiment)
    return Baseline(experiment, run_id, diagnoses, context, questions, answers)


def try_each(
    plugins: Mapping[str, Mitigation], baseline: Baseline, options: SearchOptions
) -> SearchResult:
    """Try every mitigation in a child run of its own; one that fails, fails alone."""
    result = SearchResult()
    started = time.monotonic()
    with task("mitigations", len(plugins)) as advance:
        for name, plugin in plugins.items():
            if _is_over_budget(options, started):
                break
            try:
                _try_one(name, plugin, baseline, result)
            except Exception as error:
                # a plugin may fail in any way, and does so alone
                result.failed.append(
                    f"mitigation '{name}' failed: {type(error).__name__}: {error} "
                    "(traceback: ilp/error.txt of its run)"
                )
            advance(1)
    return result


def _try_one(name: str, plugin: Mitigation, baseline: Baseline, result: SearchResult) -> None:
    """Try a mitigation in a child run; its outcome, or what it asks for, is added to `result`."""
    with (
        runs.start(name, "mitigation", parent=baseline.run_id) as run_id,
        task(f"mitigate {name}"),
    ):
        options = plugin.model_dump() if isinstance(plugin, Value) else {}
        params = {f"ilp.with.{key}": str(value)[:MAX_PARAMETER] for key, value in options.items()}
        runs.log(run_id, params=params)
        plan = checked_plan(name, plugin, baseline.diagnoses, baseline.context)
        if isinstance(plan, Plan):
            result.outcomes.append(run_trial(name, plan, baseline, run_id))
            return
        request = plan or Request(targets=(), wanted={}, reason=NO_TARGETS)
        runs.write(run_id, "request.json", request.model_dump_json(indent=2))
        runs.log(run_id, tags={"mlflow.note.content": request.reason})
        result.requests[name] = request


def try_in_projects(
    experiment: Experiment, run_id: str, names: Sequence[str], source: Path, jobs: int
) -> SearchResult:
    """Try mitigations in MLflow project runs on the experiment's backend, `jobs` at a time.

    They are children of the run `run_id`; one that fails, fails alone. `source` is the experiment's
    file.
    """
    parameters = {}
    for name in names:
        parameters[name] = {"experiment": str(source), "run_id": run_id, "name": name}
    launched = projects.launch_many(
        "mitigation", parameters, run_id, experiment.backend, experiment.backend_config, jobs
    )
    result = SearchResult()
    for name, (child, fault) in launched.items():
        if fault:
            result.failed.append(
                f"mitigation '{name}' failed: {fault} (traceback: ilp/error.txt of its run)"
            )
        elif runs.has(child, "outcome.json"):
            outcome = Outcome.model_validate_json(runs.read(child, "outcome.json"))
            result.outcomes.append(outcome)
        elif runs.has(child, "request.json"):
            request = Request.model_validate_json(runs.read(child, "request.json"))
            result.requests[name] = request
    return result


def try_composed(
    plugins: Mapping[str, Mitigation], baseline: Baseline, options: SearchOptions
) -> SearchResult:
    """Compose the mitigations that fit the causes into one, and try that.

    With a target (`max_unlearned`), other combinations are tried until it is reached, nothing is
    left to try, or the budget is spent. A mitigation whose plan fails is left out.
    """
    result = SearchResult()
    started = time.monotonic()
    planner = _planner(plugins, baseline, result)
    candidates = _find_candidates(plugins, planner, baseline, result)
    combination: list[Candidate] | None = choose_mitigations(candidates)
    obstacle = _obstacle(combination, baseline, options, started)
    if obstacle:
        print(f"ilp: {obstacle}; nothing was tried", file=sys.stderr)
        return result

    tried_combinations: list[frozenset[str]] = []
    while combination and not _is_over_budget(options, started):
        tried_combinations.append(names_of(combination))
        name = f"auto {len(tried_combinations)}"
        outcome = _try_combination(name, combination, planner, baseline, result)
        if outcome is None:
            break
        result.outcomes.append(outcome)
        # the target is about all samples, so the best is the one that leaves fewest unlearned
        best = min(result.outcomes, key=_unlearned_order)
        if options.max_unlearned is None or _reaches(best, options.max_unlearned):
            break
        combination = _next_combination(best, candidates, tried_combinations)
    return result


def _unlearned_order(outcome: Outcome) -> tuple[int, float]:
    """By what outcomes are sorted, fewest unscored samples first, then fewest unlearned ones."""
    share = 1.0 if outcome.unlearned_rate is None else outcome.unlearned_rate
    return count_unscored(outcome.unscored_reasons), share


def _reaches(outcome: Outcome, max_unlearned: float) -> bool:
    """Whether all samples are scored, and at most this share 0..1 of them is unlearned."""
    n_unscored, share = _unlearned_order(outcome)
    return not n_unscored and share <= max_unlearned


def _planner(
    plugins: Mapping[str, Mitigation], baseline: Baseline, result: SearchResult
) -> Planner:
    """Asks mitigations for plans; a failure is noted in `result`, and is no plan."""

    # asked once for the candidates, then again in each combination, on top of what others plan
    def plan(name: str, context: Context) -> Plan | Request | None:
        try:
            return checked_plan(name, plugins[name], baseline.diagnoses, context)
        except Exception as error:
            # a plugin may fail in any way, and does so alone
            result.failed.append(f"mitigation '{name}' failed: {type(error).__name__}: {error}")
            return None

    return plan


def _find_candidates(
    plugins: Mapping[str, Mitigation], planner: Planner, baseline: Baseline, result: SearchResult
) -> list[Candidate]:
    """The mitigations that plan something; what the others ask for is noted in `result`."""
    causes = baseline.before.causes
    candidates = []
    for name, plugin in plugins.items():
        plan = planner(name, baseline.context)
        if isinstance(plan, Request):
            result.requests[name] = plan
        elif plan and plan.targets and plan.stages != tuple(baseline.context.stages):
            expected = expected_recovery(plugin, runs.past_trials(name))
            candidates.append(as_candidate(name, plan, baseline.context, causes, expected))
    return candidates


def _obstacle(
    combination: Sequence[Candidate] | None,
    baseline: Baseline,
    options: SearchOptions,
    started: float,
) -> str:
    """Why there is nothing to try; "" where there is."""
    statuses = list(baseline.before.statuses.values())
    unlearned = unlearned_share(statuses)
    limit = options.max_unlearned
    # what is not scored may be unlearned
    is_known = "unscored" not in statuses
    if limit is not None and unlearned is not None and is_known and unlearned <= limit:
        return f"{unlearned:.1%} are unlearned already, within --max-unlearned {limit:g}"
    if not combination:
        return "no mitigation is at hand for the causes that were found"
    if _is_over_budget(options, started):
        return f"the {options.budget:g} seconds of --budget are spent"
    return ""


def _try_combination(
    name: str,
    combination: Sequence[Candidate],
    planner: Planner,
    baseline: Baseline,
    result: SearchResult,
) -> Outcome | None:
    """Try a combination in a child run; None where it fails, which is noted in `result`."""
    names: tuple[str, ...] = ()
    try:
        with (
            runs.start(name, "mitigation", parent=baseline.run_id) as run_id,
            task(f"mitigate {name}"),
        ):
            names, plan = compose_plans(combination, planner, baseline.context)
            runs.log(run_id, tags={"ilp.combines": ", ".join(names)})
            outcome = run_trial(name, plan, baseline, run_id)
            outcome = outcome.model_copy(update={"combines": names})
            runs.write(run_id, "outcome.json", outcome.model_dump_json(indent=2))
            return outcome
    except Exception as error:
        # a plugin may fail in any way
        result.failed.append(
            f"'{name}' ({', '.join(names)}) failed: {type(error).__name__}: {error}"
        )
    return None


def _next_combination(
    best: Outcome, candidates: Sequence[Candidate], tried_combinations: Sequence[frozenset[str]]
) -> list[Candidate] | None:
    """The combination to try next: the best so far, with another candidate for one cause."""
    chosen = [candidate for candidate in candidates if candidate.name in best.combines]
    unlearned_by_cause = {}
    for cause, tally in best.causes.items():
        # whether one that is not scored is recovered, nobody knows
        unlearned_by_cause[cause] = tally.unlearned + tally.unscored - tally.recovered
    return next_combination(chosen, candidates, unlearned_by_cause, tried_combinations)


def _is_over_budget(options: SearchOptions, started: float) -> bool:
    """Whether the seconds of the budget are over since `started`."""
    return options.budget is not None and time.monotonic() - started >= options.budget


def register_best(experiment: Experiment, result: SearchResult, run_id: str) -> str | None:
    """Register the model of the recommended mitigation; return its URI, or None without one.

    It becomes the next version of the last stage, with the alias `mitigated`. `run_id` is the run
    of the experiment.
    """
    best = recommended(result.outcomes)
    if best is None:
        return None
    last_stage = experiment.stages[-1].name
    tags = {
        "ilp.kind": ALIAS,
        "ilp.experiment": experiment.name,
        "ilp.stage": last_stage,
        "ilp.base": runs.read_checkpoints(run_id)[0].model_uri,
        "ilp.run_id": best.run_id,
        "ilp.mitigation": ", ".join(best.combines) or best.mitigation,
    }
    name = f"{experiment.name}.{last_stage}"
    return model_registry.promote(name, best.model_uri, best.run_id, tags, ALIAS)
