"""Adapters that were trained on the model of the stage before, told by the rows they trained.

PEFT names the plain base as the model below an adapter, also where the adapter before was merged
into that: files do not say whether an adapter belongs on the base or on the stage before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow.compute as pc

from ilp_mlflow.core.config import ScoringConfig, TokenizerConfig
from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.terminal.notes import say_once
from ilp_mlflow.core.values import Checkpoint, Sample
from ilp_mlflow.scoring.checkpoints import score_checkpoints
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.tracking import model_registry

ROWS = 16
"""Rows of a stage that are scored both ways."""
MARGIN = 1.0
"""By how much the rows must be likelier with the adapter before, nats a row."""


def settle_adapters(
    checkpoints: Sequence[Checkpoint],
    samples_by_stage: Mapping[str, Sequence[Sample]],
    scoring: ScoringConfig,
    seed: int,
    tokenizer: TokenizerConfig | None,
) -> list[Checkpoint]:
    """The checkpoints, each adapter on what its own rows say that it was trained on; base first.

    An adapter that sits on the base behind an earlier stage, an adapter there or a full model, is
    put on that stage where it fits and makes its rows much likelier; this is told. An adapter
    without rows stays where it is, and that is told, too. Raises ModelError, see
    `score_checkpoints`.
    """
    settled = {checkpoint.name: checkpoint for checkpoint in checkpoints}
    base = checkpoints[0].model_uri
    parts = model_registry.resolve_all({c.name: c.model_uri for c in checkpoints})
    for name, earlier in model_registry.side_by_side(parts).items():
        stage, below = name.partition("@")[0], settled[earlier].model_uri
        samples = samples_by_stage.get(stage, ())[:ROWS]
        # the last checkpoint of a stage speaks for those inside it
        apart = settled[stage].model_uri
        stacked = f"{below}+{apart}"
        if not samples:
            model_registry.tell_apart(name, base, earlier)
        elif _fits(stacked, base):
            places = {"base": base, "apart": apart, "stacked": stacked}
            scores = score_checkpoints(samples, {}, places, scoring, seed, tokenizer)
            means = {}
            for place in places:
                logprobs = scores.filter(pc.equal(scores["checkpoint"], place))["logprob"]
                means[place] = pc.mean(logprobs).as_py()
            if _is_likelier(means["stacked"], means["apart"]):
                uri = f"{below}+{settled[name].model_uri}"
                settled[name] = settled[name].model_copy(update={"model_uri": uri})
                say_once(
                    f"{name}: its adapter is put on '{earlier}', which files do not say: so its "
                    f"rows have log-probability {means['stacked']:.1f} on average, on the base "
                    f"alone {means['apart']:.1f}"
                )
    return list(settled.values())


def _fits(stacked: str, base: str) -> bool:
    """Whether an adapter can be loaded on a stage: a full model may have other layers."""
    try:
        loading.check_whole(model_registry.resolve_parts(stacked, base))
    except ModelError:
        return False
    return True


def _is_likelier(stacked: float | None, apart: float | None) -> bool:
    """Whether rows are likelier one way than the other; not where none could be scored."""
    return stacked is not None and apart is not None and stacked > apart + MARGIN
