"""Mitigations tried one by one or side by side, or composed into one; what came of them, and the best of them registered."""

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
from ilp_mlflow.core.progress import task
from ilp_mlflow.core.values import Diagnosis, Outcome, Plan, Request, Sample, Value
from ilp_mlflow.data.samples import load_samples
from ilp_mlflow.diagnosis.attribution import UNEXPLAINED
from ilp_mlflow.diagnosis.context import build_context, question_rewriter
from ilp_mlflow.mitigation.compose import (
    Candidate,
    as_candidate,
    choose_mitigations,
    compose_plans,
    expected_recovery,
    next_combination,
)
from ilp_mlflow.mitigation.outcome import recommended
from ilp_mlflow.mitigation.side_effects import ask_questions, plan_questions
from ilp_mlflow.mitigation.trial import Baseline, checked_plan, run_trial
from ilp_mlflow.tracking import model_registry, projects, runs

ALIAS = "mitigated"
"""Alias of the registered model that the recommended mitigation leads to."""
LONG = 500
"""Characters of an option that its run's parameter shows."""
NOTHING = "no unlearned sample has a cause that it is for"
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
    """In the run that MLflow made for this process: whoever launched it collects what came of it."""


@dataclass
class SearchResult:
    """What came of mitigations."""

    outcomes: list[Outcome] = field(default_factory=list)
    requests: dict[str, Request] = field(default_factory=dict)
    """What those that lack data ask for, by name."""
    failed: list[str] = field(default_factory=list)
    """A sentence for each that failed."""


def read_baseline(experiment: Experiment, run_id: str, samples: Sequence[Sample]) -> Baseline:
    """What is known of a diagnosed run before anything is tried. Raises IlpError."""
    checkpoints = runs.read_checkpoints(run_id)
    held_out = load_samples("held_out", experiment.held_out) if experiment.held_out else []
    context = build_context(
        experiment, samples, checkpoints, runs.read_table(run_id, "scores.parquet"), run_id
    )
    context = replace(context, held_out=held_out)
    diagnoses = [
        Diagnosis.model_validate(d) for d in json.loads(runs.read(run_id, "diagnoses.json"))
    ]
    unlearned = [context.samples[d.verdict.sample_id] for d in diagnoses]
    with task("ask in other words"):
        asked = plan_questions(
            unlearned, samples, held_out, experiment.seed, question_rewriter(experiment.scoring)
        )
        answers = ask_questions(
            asked, checkpoints[0].model_uri, checkpoints[-1].model_uri, experiment
        )
    return Baseline(diagnoses, context, asked, answers)


def try_each(
    experiment: Experiment,
    run_id: str,
    plugins: Mapping[str, Mitigation],
    known: Baseline,
    wanted: SearchOptions,
) -> SearchResult:
    """Try every mitigation in a child run of its own; one that fails, fails alone."""
    found, started = SearchResult(), time.monotonic()
    with task("mitigations", len(plugins)) as advance:
        for name, plugin in plugins.items():
            if _spent(wanted, started):
                break
            try:
                with (
                    runs.start(name, "mitigation", parent=run_id) as child,
                    task(f"mitigate {name}"),
                ):
                    options = plugin.model_dump() if isinstance(plugin, Value) else {}
                    runs.log(
                        child, params={f"ilp.with.{k}": str(v)[:LONG] for k, v in options.items()}
                    )
                    plan = checked_plan(name, plugin, known.diagnoses, known.context)
                    _note(found, name, _attempt(experiment, name, plan, known, run_id, child))
            except Exception as error:  # a plugin may fail in any way, alone
                found.failed.append(
                    f"mitigation '{name}' failed: {type(error).__name__}: {error} (traceback: ilp/error.txt of its run)"
                )
            advance(1)
    return found


def try_in_projects(
    experiment: Experiment, run_id: str, names: Sequence[str], source: Path, jobs: int
) -> SearchResult:
    """Try mitigations in MLflow project runs, `jobs` at a time, on the experiment's backend; one that fails, fails alone."""
    given = {"experiment": str(source), "run_id": run_id}
    launched = projects.launch_many(
        "mitigation",
        {name: {**given, "name": name} for name in names},
        run_id,
        experiment.backend,
        experiment.backend_config,
        jobs,
    )
    found = SearchResult()
    for name, (child, fault) in launched.items():
        if fault:
            found.failed.append(
                f"mitigation '{name}' failed: {fault} (traceback: ilp/error.txt of its run)"
            )
        elif runs.has(child, "outcome.json"):
            found.outcomes.append(Outcome.model_validate_json(runs.read(child, "outcome.json")))
        elif runs.has(child, "request.json"):
            found.requests[name] = Request.model_validate_json(runs.read(child, "request.json"))
    return found


def try_composed(
    experiment: Experiment,
    run_id: str,
    plugins: Mapping[str, Mitigation],
    known: Baseline,
    wanted: SearchOptions,
) -> SearchResult:
    """Compose the mitigations that fit the causes and try that; on and on with others in their place until a target or the budget.

    Without a target, one composition is tried. One whose plan fails is left out.
    """
    found, started = SearchResult(), time.monotonic()
    causes = {d.verdict.sample_id: d.cause or UNEXPLAINED for d in known.diagnoses}
    candidates = list[Candidate]()

    def planner(name: str, context: Context) -> Plan | Request | None:
        try:
            return checked_plan(name, plugins[name], known.diagnoses, context)
        except Exception as error:  # a plugin may fail in any way, alone
            found.failed.append(f"mitigation '{name}' failed: {type(error).__name__}: {error}")
            return None

    for name, plugin in plugins.items():
        plan = planner(name, known.context)
        if isinstance(plan, Request):
            found.requests[name] = plan
        elif plan and plan.targets and tuple(plan.stages) != tuple(known.context.stages):
            hope = expected_recovery(plugin, runs.past_trials(name))
            candidates.append(as_candidate(name, plan, known.context, causes, hope))
    chosen: list[Candidate] | None = choose_mitigations(candidates)
    unlearned = len(known.diagnoses) / max(1, len(known.context.samples))
    if wanted.max_unlearned is not None and unlearned <= wanted.max_unlearned:
        _nothing(
            f"{unlearned:.1%} are unlearned already, within --max-unlearned {wanted.max_unlearned:g}"
        )
        return found
    if not chosen:
        _nothing("no mitigation is at hand for the causes that were found")
    elif _spent(wanted, started):
        _nothing(f"the {wanted.budget:g} seconds of --budget are spent")
    tried = list[frozenset[str]]()
    while chosen and not _spent(wanted, started):
        number = len(tried) + 1
        tried.append(frozenset(c.name for c in chosen))
        names: tuple[str, ...] = ()
        try:
            with (
                runs.start(f"auto {number}", "mitigation", parent=run_id) as child,
                task(f"mitigate auto {number}"),
            ):
                names, plan = compose_plans(chosen, planner, known.context)
                runs.log(child, tags={"ilp.combines": ", ".join(names)})
                one = run_trial(experiment, f"auto {number}", plan, known, run_id, child)
                one = one.model_copy(update={"combines": names})
                runs.write(child, "outcome.json", one.model_dump_json(indent=2))
                found.outcomes.append(one)
        except Exception as error:  # a plugin may fail in any way, alone
            found.failed.append(
                f"'auto {number}' ({', '.join(names)}) failed: {type(error).__name__}: {error}"
            )
            break
        best = min(found.outcomes, key=lambda o: o.unlearned_rate)
        if wanted.max_unlearned is None or best.unlearned_rate <= wanted.max_unlearned:
            break
        left = {cause: t.unlearned - t.recovered for cause, t in best.causes.items()}
        chosen = next_combination(
            [c for c in candidates if c.name in best.combines], candidates, left, tried
        )
    return found


def _nothing(why: str) -> None:
    print(f"ilp: {why}; nothing was tried", file=sys.stderr)


def register_best(experiment: Experiment, found: SearchResult, run_id: str) -> str | None:
    """Register the recommended model as the next version of the last stage, with the alias `mitigated`; its URI, or None."""
    best = recommended(found.outcomes)
    if best is None:
        return None
    last = experiment.stages[-1].name
    base = runs.read_checkpoints(run_id)[0].model_uri
    tags = {
        "kind": ALIAS,
        "experiment": experiment.name,
        "stage": last,
        "base": base,
        "run_id": best.run_id,
    }
    tags["mitigation"] = ", ".join(best.combines) or best.mitigation
    name = f"{experiment.name}.{last}"
    return model_registry.promote(
        name, best.model_uri, best.run_id, {f"ilp.{k}": v for k, v in tags.items()}, ALIAS
    )


def _attempt(
    experiment: Experiment,
    name: str,
    plan: Plan | Request | None,
    known: Baseline,
    parent: str,
    run_id: str,
) -> Outcome | Request:
    if isinstance(plan, Plan):
        return run_trial(experiment, name, plan, known, parent, run_id)
    request = plan or Request(targets=(), wanted={}, reason=NOTHING)
    runs.write(run_id, "request.json", request.model_dump_json(indent=2))
    runs.log(run_id, tags={"mlflow.note.content": request.reason})
    return request


def _spent(wanted: SearchOptions, started: float) -> bool:
    return wanted.budget is not None and time.monotonic() - started >= wanted.budget


def _note(found: SearchResult, name: str, what: Outcome | Request) -> None:
    if isinstance(what, Outcome):
        found.outcomes.append(what)
    else:
        found.requests[name] = what
