"""Multiple-choice scoring against lm-evaluation-harness: the same token ids, the same model, the same machine."""

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

lm_eval = pytest.importorskip("lm_eval", reason="pip install -e '.[bench]'")

from lm_eval.models.huggingface import HFLM  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.plans import ITEMS, plan_of, questions  # noqa: E402
from ilp_mlflow.core.config import ScoringConfig  # noqa: E402
from ilp_mlflow.core.values import Sample, Score, Stage, to_table  # noqa: E402
from ilp_mlflow.data.distractors import choose_distractors  # noqa: E402
from ilp_mlflow.scoring import scorer  # noqa: E402
from ilp_mlflow.scoring.metrics import SAMPLED_RUNS  # noqa: E402
from ilp_mlflow.scoring.models import loading  # noqa: E402
from ilp_mlflow.scoring.tokens import token_trees  # noqa: E402
from ilp_mlflow.scoring.verdicts.greedy import greedy_margins, may_turn_in_float32  # noqa: E402
from ilp_mlflow.scoring.verdicts.judgements import judge, read_judges  # noqa: E402
from ilp_mlflow.training.trainer import train_stage  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
EXACT = 1e-3
"""Nats, summed over a completion."""


@pytest.fixture(scope="module")
def loaded(smollm2):
    found = loading.load_model([smollm2])
    found.model.eval()
    return found


def single_letters(tokenizer, prompt_tokens, n=ITEMS):
    letters = [tokenizer(f" {letter}")["input_ids"] for letter in "ABCD"]
    return [(prompt, letters) for prompt, _ in questions(tokenizer, prompt_tokens, 1, n=n)]


def ours(asked, loaded, batch_tokens):
    return np.array(
        [s.option_logprobs for s in scorer.score_samples(plan_of(asked, batch_tokens), loaded, "c")]
    )


def theirs(asked, harness, batch_size):
    harness.batch_size_per_gpu = batch_size
    requests = [(("", ""), prompt, option) for prompt, options in asked for option in options]
    return np.array(
        [r[0] for r in harness._loglikelihood_tokens(requests, disable_tqdm=True)]
    ).reshape(len(asked), -1)


def apart(asked, loaded):
    """Every option in a plain pass of its own, the log-softmax in float64."""
    found = []
    for prompt, options in asked:
        for option in options:
            with torch.inference_mode():
                logits = (
                    loaded.model(torch.tensor([prompt + option]))
                    .logits[0, len(prompt) - 1 : -1]
                    .double()
                )
            found.append(
                float(logits.log_softmax(-1).gather(1, torch.tensor(option)[:, None]).sum())
            )
    return np.array(found).reshape(len(asked), -1)


def best(sizes, run):
    """The size that is fastest in one try each."""
    tries = {}
    for size in sizes:
        start = time.perf_counter()
        run(size)
        tries[size] = time.perf_counter() - start
    return min(tries, key=tries.get)


def peak(dtype):
    """Floating-point operations per second of a large matrix product here."""
    a, b = torch.randn(4096, 4096, dtype=dtype), torch.randn(4096, 4096, dtype=dtype)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * 4096**3 / min(seconds)


CASES = {
    "prompt 50, options 5": (lambda t: questions(t, 50, 5), 3.0),
    "prompt 85, options 12": (lambda t: questions(t, 85, 12), 3.2),
    "prompt 200, options 15": (lambda t: questions(t, 200, 15, n=ITEMS // 2), 3.5),
    "single letters": (lambda t: single_letters(t, 85), 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_against_lm_eval(case, loaded, paired, benchmark):
    make, bar = CASES[case]
    asked = make(loaded.tokenizer)
    harness = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, backend="causal")
    tokens = best((512, 1024, 2048), lambda size: ours(asked[:12], loaded, size))
    batch = best((4, 8, 16, 32), lambda size: theirs(asked[:12], harness, size))

    one, other, plain = (
        ours(asked, loaded, tokens),
        theirs(asked, harness, batch),
        apart(asked[:8], loaded),
    )
    assert abs(one - other).max() < EXACT
    assert abs(one[:8] - plain).max() < EXACT
    assert (one.argmax(1) == other.argmax(1)).all()

    ratio = paired(
        lambda: ours(asked, loaded, tokens), lambda: theirs(asked, harness, batch), len(asked)
    )
    print(
        f"  {tokens} tokens per batch against {batch} requests; largest difference {abs(one - other).max():.1e} nats;"
    )
    with FlopCounterMode(display=False) as counter:
        ours(asked[:16], loaded, tokens)
    rate = counter.get_total_flops() / 16 * len(asked) / benchmark.stats.stats.median
    print(
        f"  {rate / 1e9:.0f} GFLOP/s, {rate / peak(torch.float32):.0%} of this machine's fp32 matrix-multiply peak"
    )
    assert ratio >= bar


def learner(smollm2, tokenizer, scratch):
    """Samples of the second case, and the model trained on them until some are learned."""
    samples = [
        Sample(
            id=f"{i:04}",
            stage="s",
            prompt=tokenizer.decode(prompt),
            completion=tokenizer.decode(options[0]),
        )
        for i, (prompt, options) in enumerate(questions(tokenizer, 85, 12, seed=1, n=ITEMS // 2))
    ]
    options = {
        "num_train_epochs": 12,
        "per_device_train_batch_size": 8,
        "learning_rate": 2e-3,
        "gradient_checkpointing": False,
    }
    stage = Stage(
        name="s", samples=samples, training=options, peft={"r": 16, "target_modules": "all-linear"}
    )
    loaded = train_stage(stage, loading.load_model([smollm2]), scratch).loaded
    loaded.model.merge_and_unload().save_pretrained(scratch / "model")
    tokenizer.save_pretrained(scratch / "model")
    return samples, str(scratch / "model")


def test_mixed_precision_against_lm_eval(smollm2, loaded, paired, tmp_path):
    samples, folder = learner(smollm2, loaded.tokenizer, tmp_path)
    exact, screen = loading.load_model([folder]), loading.load_model([folder], dtype="bfloat16")
    plan = token_trees.plan_batches(samples, choose_distractors(samples, 3, 0), exact, 1024)
    # priors are left out: the harness computes none
    plan = replace(
        plan,
        sample_batches=[
            [replace(item, blank_numbers=()) for item in batch] for batch in plan.sample_batches
        ],
    )
    harness = HFLM(
        pretrained=exact.model, tokenizer=exact.tokenizer, backend="causal", batch_size=8
    )
    requests = []
    for item in (item for batch in plan.sample_batches for item in batch):
        for k in range(item.tree.sequence_count):
            ids, start = item.tree.sequence(k), item.tree.start(k)
            requests.append((("", ""), ids[:start], ids[start:]))

    def table(plan, loaded):
        return to_table(scorer.score_samples(plan, loaded, "c"), Score)

    def mixed():
        found = table(plan, screen)
        close = may_turn_in_float32(found)
        again = table(
            plan.only(frozenset(found.filter(pa.array(close))["sample_id"].to_pylist())), exact
        )
        return pa.concat_tables([found.filter(pa.array(~close)), again]), close

    def statuses(found):
        judges = read_judges(ScoringConfig(verdicts="greedy"))
        return judge(found.sort_by("sample_id"), ["c"], judges)["status"].to_pylist()

    (found, close), expected = mixed(), table(plan, exact)
    assert statuses(found) == statuses(expected)
    assert "learned" in statuses(expected)
    low = table(plan, screen)
    margin = greedy_margins(expected)
    near = abs(margin) < 4
    moved = abs(greedy_margins(low) - margin)[near].max(initial=0)
    print(f"\n  {Counter(statuses(expected))}; {close.mean():.0%} scored again;")
    print(f"  bf16 moves the {near.sum()} margins within 4 nats of zero by up to {moved:.2f} nats")
    ratio = paired(
        mixed, lambda: harness._loglikelihood_tokens(requests, disable_tqdm=True), len(samples)
    )
    assert ratio >= 6.0


def test_against_sampling_as_the_paper_does(loaded, paired):
    """Pass rate from five answers generated one by one, and in closed form from one forward pass."""
    asked = questions(loaded.tokenizer, 85, 12, n=16)
    longest = max(len(option) for _, options in asked for option in options)

    def sample():
        for prompt, _ in asked:
            for _ in range(SAMPLED_RUNS):
                loaded.model.generate(
                    torch.tensor([prompt]),
                    do_sample=True,
                    min_new_tokens=longest,
                    max_new_tokens=longest,
                    pad_token_id=0,
                )

    ratio = paired(lambda: ours(asked, loaded, 1024), sample, len(asked))
    assert ratio >= 15.0
