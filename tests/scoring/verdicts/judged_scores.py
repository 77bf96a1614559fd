"""Scores made by hand, and what the rules say of them."""

import pyarrow as pa

from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.values import Score, Verdict, to_rows, to_table
from ilp_mlflow.scoring.verdicts.judgements import judge, read_judges
from ilp_mlflow.scoring.verdicts.timeline import verdict_table


def score(checkpoint="last", sample="a", gap=1.0, p=None, k=4, **fields):
    if p is not None:
        fields |= {"p_correct": p, "option_logprobs": (0.0,) * k, "wrong": "other"}
    right = gap > 0
    base = {
        "logprob": -1.0,
        "tokens": 2,
        "greedy": right,
        "token_accuracy": 1.0 if right else 0.5,
        "gap": gap,
        "stops": True,
    }
    return Score(sample_id=sample, checkpoint=checkpoint, **{**base, **fields})


def judged(scores, checkpoints=("last",), preset="default", seed=0):
    table = scores if isinstance(scores, pa.Table) else to_table(scores, Score)
    return judge(table, checkpoints, read_judges(ScoringConfig(preset=preset)), seed)


def verdicts(*scores, checkpoints=("last",), preset="default"):
    return to_rows(verdict_table(judged(scores, checkpoints, preset), checkpoints), Verdict)
