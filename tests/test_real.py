"""The same invariants on a real pretrained model and real rows, where this machine has them."""

import os
from pathlib import Path

import pytest
import torch

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.data.distractors import choose_distractors
from ilp_mlflow.data.samples import load_samples
from ilp_mlflow.scoring import scorer
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.tokens import token_trees
from ilp_mlflow.scoring.tokens.encoding import encode

ROWS = (
    Path(os.environ.get("ILP_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    / "multitask_sequence.jsonl"
)
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
MODEL = CACHE / "ilp_mlflow" / "SmolLM2-135M-Instruct"
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(
        not ROWS.exists(), reason=f"needs {ROWS.name}: set ILP_REAL_DATA to its folder"
    ),
    pytest.mark.skipif(not MODEL.exists(), reason="needs SmolLM2: run `make smollm2`"),
]


def test_real_rows_score_together_as_they_do_alone():
    samples = [
        s
        for stage in (1, 2, 3, 4)
        for s in load_samples(
            str(stage), DataConfig(path=str(ROWS), where={"stage": stage}, limit=3)
        )
    ]
    loaded = loading.load_model([str(MODEL)])
    plan = token_trees.plan_batches(samples, choose_distractors(samples, 3, 0), loaded, 2048)
    found = {s.sample_id: s for s in scorer.score_samples(plan, loaded, "base")}
    assert not plan.unscored
    for sample in samples:
        e = encode(loaded.tokenizer, sample.prompt, sample.completion, loaded.end_token_ids)
        with torch.inference_mode():
            logits = (
                loaded.model(torch.tensor([e.ids]))
                .logits[0, e.start - 1 : -1]
                .double()
                .log_softmax(-1)
            )
        targets = torch.tensor(e.ids[e.start :])
        alone = float(logits.gather(1, targets[:, None]).sum())
        assert found[sample.id].logprob == pytest.approx(alone, abs=1e-3)
        assert found[sample.id].greedy == bool((logits.argmax(-1) == targets).all())
        assert len(found[sample.id].option_logprobs) >= 3
