"""Mitigations tried one by one or side by side, or composed into one; what came of them, and the best of them registered."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ilp_mlflow import catalog, composition, dataset, explain, grades, mitigation, outcome, projects, tracking
from ilp_mlflow.composition import Candidate
from ilp_mlflow.config import Experiment
from ilp_mlflow.mitigation import Before
from ilp_mlflow.plugin import Context, Mitigation
from ilp_mlflow.progress import task
from ilp_mlflow.report import UNEXPLAINED
from ilp_mlflow.types import Diagnosis, Outcome, Plan, Request, Sample, Value

ALIAS = "mitigated"
"""Alias of the registered model that the recommended mitigation leads to."""
LONG = 500
"""Characters of an option that its run's parameter shows."""
NOTHING = "no unlearned sample has a cause that it is for"
"""Why a mitigation that plans nothing was not tried."""


@dataclass(frozen=True)
class Wanted:
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
class Tried:
    """What came of mitigations."""

    outcomes: list[Outcome] = field(default_factory=list)
    requests: dict[str, Request] = field(default_factory=dict)
    """What those that lack data ask for, by name."""
    failed: list[str] = field(default_factory=list)
    """A sentence for each that failed."""


def before(experiment: Experiment, run_id: str, samples: Sequence[Sample]) -> Before:
    """What is known of a diagnosed run before anything is tried. Raises IlpError."""
    checkpoints = tracking.read_checkpoints(run_id)
    held_out = dataset.load("held_out", experiment.held_out) if experiment.held_out else []
    context = explain.context(experiment, samples, checkpoints, tracking.read_table(run_id, "scores.parquet"), run_id)
    context = replace(context, held_out=held_out)
    diagnoses = [Diagnosis.model_validate(d) for d in json.loads(tracking.read(run_id, "diagnoses.json"))]
    unlearned = [context.samples[d.verdict.sample_id] for d in diagnoses]
    with task("ask in other words"):
        asked = grades.questions(unlearned, samples, held_out, experiment.seed, explain.wordings(experiment.scoring))
        answers = grades.ask(asked, checkpoints[0].model_uri, checkpoints[-1].model_uri, experiment)
    return Before(diagnoses, context, asked, answers)


def each(experiment: Experiment, run_id: str, plugins: Mapping[str, Mitigation], known: Before, wanted: Wanted) -> Tried:
    """Try every mitigation in a child run of its own; one that fails, fails alone."""
    found, started = Tried(), time.monotonic()
    with task("mitigations", len(plugins)) as advance:
        for name, plugin in plugins.items():
            if _spent(wanted, started):
                break
            try:
                with tracking.run(name, "mitigation", parent=run_id) as child, task(f"mitigate {name}"):
                    options = plugin.model_dump() if isinstance(plugin, Value) else {}
                    tracking.log(child, params={f"ilp.with.{k}": str(v)[:LONG] for k, v in options.items()})
                    plan = mitigation.planned(name, plugin, known.diagnoses, known.context)
                    _note(found, name, _attempt(experiment, name, plan, known, run_id, child))
            except Exception as error:  # a plugin may fail in any way, alone
                found.failed.append(
                    f"mitigation '{name}' failed: {type(error).__name__}: {error} (traceback: ilp/error.txt of its run)"
                )
            advance(1)
    return found


def side_by_side(experiment: Experiment, run_id: str, names: Sequence[str], source: Path, jobs: int) -> Tried:
    """Try mitigations in MLflow project runs, `jobs` at a time, on the experiment's backend; one that fails, fails alone."""
    given = {"experiment": str(source), "run_id": run_id}
    runs = projects.launch_many(
        "mitigation",
        {name: {**given, "name": name} for name in names},
        run_id,
        experiment.backend,
        experiment.backend_config,
        jobs,
    )
    found = Tried()
    for name, (child, fault) in runs.items():
        if fault:
            found.failed.append(f"mitigation '{name}' failed: {fault} (traceback: ilp/error.txt of its run)")
        elif tracking.has(child, "outcome.json"):
            found.outcomes.append(Outcome.model_validate_json(tracking.read(child, "outcome.json")))
        elif tracking.has(child, "request.json"):
            found.requests[name] = Request.model_validate_json(tracking.read(child, "request.json"))
    return found


def auto(experiment: Experiment, run_id: str, plugins: Mapping[str, Mitigation], known: Before, wanted: Wanted) -> Tried:
    """Compose the mitigations that fit the causes and try that; on and on with others in their place until a target or the budget.

    Without a target, one composition is tried. One whose plan fails is left out.
    """
    found, started = Tried(), time.monotonic()
    causes = {d.verdict.sample_id: d.cause or UNEXPLAINED for d in known.diagnoses}
    candidates = list[Candidate]()

    def planner(name: str, context: Context) -> Plan | Request | None:
        try:
            return mitigation.planned(name, plugins[name], known.diagnoses, context)
        except Exception as error:  # a plugin may fail in any way, alone
            found.failed.append(f"mitigation '{name}' failed: {type(error).__name__}: {error}")
            return None

    for name, plugin in plugins.items():
        plan = planner(name, known.context)
        if isinstance(plan, Request):
            found.requests[name] = plan
        elif plan and plan.targets and tuple(plan.stages) != tuple(known.context.stages):
            hope = composition.expected(plugin, tracking.experience(name))
            candidates.append(composition.candidate(name, plan, known.context, causes, hope))
    chosen: list[Candidate] | None = composition.choose(candidates)
    unlearned = len(known.diagnoses) / max(1, len(known.context.samples))
    if wanted.max_unlearned is not None and unlearned <= wanted.max_unlearned:
        _nothing(f"{unlearned:.1%} are unlearned already, within --max-unlearned {wanted.max_unlearned:g}")
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
            with tracking.run(f"auto {number}", "mitigation", parent=run_id) as child, task(f"mitigate auto {number}"):
                names, plan = composition.compose(chosen, planner, known.context)
                tracking.log(child, tags={"ilp.combines": ", ".join(names)})
                one = mitigation.attempt(experiment, f"auto {number}", plan, known, run_id, child)
                one = one.model_copy(update={"combines": names})
                tracking.write(child, "outcome.json", one.model_dump_json(indent=2))
                found.outcomes.append(one)
        except Exception as error:  # a plugin may fail in any way, alone
            found.failed.append(f"'auto {number}' ({', '.join(names)}) failed: {type(error).__name__}: {error}")
            break
        best = min(found.outcomes, key=lambda o: o.unlearned_rate)
        if wanted.max_unlearned is None or best.unlearned_rate <= wanted.max_unlearned:
            break
        left = {cause: t.unlearned - t.recovered for cause, t in best.causes.items()}
        chosen = composition.alternative([c for c in candidates if c.name in best.combines], candidates, left, tried)
    return found


def _nothing(why: str) -> None:
    print(f"ilp: {why}; nothing was tried", file=sys.stderr)


def register(experiment: Experiment, found: Tried, run_id: str) -> str | None:
    """Register the recommended model as the next version of the last stage, with the alias `mitigated`; its URI, or None."""
    best = outcome.recommend(found.outcomes)
    if best is None:
        return None
    last = experiment.stages[-1].name
    base = tracking.read_checkpoints(run_id)[0].model_uri
    tags = {"kind": ALIAS, "experiment": experiment.name, "stage": last, "base": base, "run_id": best.run_id}
    tags["mitigation"] = ", ".join(best.combines) or best.mitigation
    name = f"{experiment.name}.{last}"
    return catalog.promote(name, best.model_uri, best.run_id, {f"ilp.{k}": v for k, v in tags.items()}, ALIAS)


def _attempt(
    experiment: Experiment, name: str, plan: Plan | Request | None, known: Before, parent: str, run_id: str
) -> Outcome | Request:
    if isinstance(plan, Plan):
        return mitigation.attempt(experiment, name, plan, known, parent, run_id)
    request = plan or Request(targets=(), wanted={}, reason=NOTHING)
    tracking.write(run_id, "request.json", request.model_dump_json(indent=2))
    tracking.log(run_id, tags={"mlflow.note.content": request.reason})
    return request


def _spent(wanted: Wanted, started: float) -> bool:
    return wanted.budget is not None and time.monotonic() - started >= wanted.budget


def _note(found: Tried, name: str, what: Outcome | Request) -> None:
    if isinstance(what, Outcome):
        found.outcomes.append(what)
    else:
        found.requests[name] = what
