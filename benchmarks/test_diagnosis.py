"""Diagnosis of 100,000 samples under five checkpoints, and the search among as many prompts: for similar ones, and for those that
are one question.

All in a fresh process, with seconds and peak memory. Models are not asked: what they would answer is not known here.
"""

import itertools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from ilp_mlflow import Checkpoint, Exposure, Sample, Score, Verdict
from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.plugin_loader import configure
from ilp_mlflow.core.values import schema, to_rows, to_table
from ilp_mlflow.data.questions import Questions
from ilp_mlflow.diagnosis.attribution import attribute, diagnosis_table
from ilp_mlflow.diagnosis.beliefs.read import read_beliefs
from ilp_mlflow.diagnosis.findings import spread_findings
from ilp_mlflow.diagnosis.installed_causes import installed_causes
from ilp_mlflow.plugin import Context, GreedyAnswer, Stage, similar_rows
from ilp_mlflow.scoring.verdicts.judgements import judge, read_judges
from ilp_mlflow.scoring.verdicts.timeline import status_histories, verdict_table

SAMPLES = int(os.environ.get("ILP_BENCHMARK_ROWS", 100_000))
SUBSET, PLANTED, PAIRED = 5_000, 1_000, 2_000
CHECKPOINTS = ["base", "one", "two", "three", "four"]
UNLEARNED = 0.15
TEXT = """
how do i|where can i|why did you|when will you|can i still|is it possible to|what happens if i|who do i ask to
open|close|freeze|order|replace|cancel|renew|transfer|check|verify|change|activate|dispute|return|refund|lend
card|account|payment|transfer|pin|limit|statement|loan|fee|balance|currency|cheque|mortgage|receipt|deposit|app
today|abroad|online|by post|from my phone|after a move|for my son|without a passport|at the weekend|in euros
"""
ASKS, DOES, THINGS, FURTHER = (line.split("|") for line in TEXT.strip().splitlines())
STARTS, MIDDLES, ENDS = (
    "bdfgklmnprst",
    ("or", "an", "el", "im", "us"),
    ("by", "ton", "ic", "er", "ad", "o"),
)


def prompts(n, seed=0):
    """Short questions of a few common words and two rare ones, as customers' questions have."""
    rng = random.Random(seed)
    rare = ["".join(parts) for parts in itertools.product(STARTS, MIDDLES, ENDS)]
    parts = (ASKS, DOES, ["the"], rare, THINGS, FURTHER, rare)
    return [" ".join(rng.choice(words) for words in parts) for _ in range(n)]


def disturbed(text, rng):
    """The same with two of: letters swapped, a word dropped, a word added, two words swapped."""
    words = text.split()
    for _ in range(2):
        kind, i, j = rng.randrange(4), rng.randrange(len(words)), rng.randrange(len(words))
        if kind == 0 and len(words[i]) > 3:
            at = rng.randrange(len(words[i]) - 1)
            words[i] = words[i][:at] + words[i][at + 1] + words[i][at] + words[i][at + 2 :]
        elif kind == 1:
            words.pop(i)
        elif kind == 2:
            words.insert(i, rng.choice(["please", "now", "really", "kindly"]))
        else:
            words[i], words[j] = words[j], words[i]
    return " ".join(words)


def reworded(text, rng):
    """The same question with a word that only asks in front, or two letters of a word swapped."""
    if rng.random() < 0.5:
        return f"please tell me: {text}?"
    words = text.split()
    place = rng.choice([i for i, word in enumerate(words) if len(word) > 4])
    at = rng.randrange(1, len(words[place]) - 1)
    word = words[place]
    words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words).upper()


class Mute:
    """A probe that answers nothing."""

    def logprobs(self, checkpoint, exchanges):
        return [float("nan")] * len(exchanges)

    def answer(self, checkpoint, prompts, max_new_tokens=16):
        return [GreedyAnswer("", float("nan"))] * len(prompts)

    def embed(self, checkpoint, prompts):
        return np.full((len(prompts), 1), np.nan)


def search(n):
    """Seconds of a search among `n` prompts, and the share of planted near-duplicates in it."""
    rng = random.Random(1)
    texts = prompts(n - PLANTED)
    chosen = rng.sample(range(len(texts)), PLANTED)
    pool = [
        Sample(id=str(i), stage="s", prompt=text, completion="x") for i, text in enumerate(texts)
    ]
    pool += [
        Sample(id=f"near {i}", stage="s", prompt=disturbed(texts[i], rng), completion="y")
        for i in chosen
    ]
    start, found = time.perf_counter(), 0
    for sample, near in zip(pool, similar_rows(pool, pool, 64), strict=True):
        found += sample.id.startswith("near") and any(pool[i].id == sample.id[5:] for i, _ in near)
    return {"seconds": time.perf_counter() - start, "recall": found / PLANTED}


def look_up(n):
    """Seconds to read `n` prompts and look each up, and the share of planted same questions that are found."""
    rng = random.Random(1)
    texts = prompts(n - PLANTED)
    chosen = rng.sample(range(len(texts)), PLANTED)
    start, found = time.perf_counter(), 0
    questions = Questions([*texts, *(reworded(texts[i], rng) for i in chosen)])
    read = time.perf_counter() - start
    same = [questions.same_as(place) for place in range(n)]
    for place, original in enumerate(chosen, len(texts)):
        found += original in same[place]
    return {
        "seconds to read": read,
        "seconds": time.perf_counter() - start,
        "recall": found / PLANTED,
    }


def diagnose(n):
    """Seconds from a score table to the table of causes."""
    rng = np.random.default_rng(0)
    names = [f"four/{i:06}" if i % 2 else f"one/{i:06}" for i in range(n)]
    rows = zip(names, prompts(n), strict=True)
    samples = [
        Sample(id=i, stage=i.partition("/")[0], prompt=p, completion=f" {p.split()[-2]}")
        for i, p in rows
    ]
    missed = rng.random((n, len(CHECKPOINTS))) < UNLEARNED
    columns = {field.name: pa.nulls(n * len(CHECKPOINTS), field.type) for field in schema(Score)}
    gap = np.where(missed, -3.0, 3.0).T.ravel()
    columns |= {
        "sample_id": pa.array(names * len(CHECKPOINTS)),
        "checkpoint": pa.array([name for name in CHECKPOINTS for _ in range(n)]),
        "logprob": pa.array(rng.normal(-8, 2, n * len(CHECKPOINTS))),
        "tokens": pa.array(np.full(n * len(CHECKPOINTS), 4)),
        "greedy": pa.array(gap > 0),
        "token_accuracy": pa.array(np.where(gap > 0, 1.0, 0.5)),
        "gap": pa.array(gap),
        "stops": pa.array(gap > 0),
        "dtype": pa.array(["float32"] * len(gap)),
    }
    scores = pa.table(columns, schema=schema(Score))
    ledger = [
        Exposure(
            sample_id=s.id, stage=s.stage, exposures=3, supervised_tokens=4, truncated_tokens=0
        )
        for s in samples
    ]
    exposures = to_table(ledger, Exposure)
    start = time.perf_counter()
    rule = judge(scores, CHECKPOINTS, read_judges(ScoringConfig())), CHECKPOINTS
    judged = {v.sample_id: v for v in to_rows(verdict_table(*rule), Verdict)}
    unlearned = [s for s in samples if judged[s.id].status == "unlearned"]
    learned = [s for s in samples if judged[s.id].status == "learned"]
    asked = random.Random(0).sample(unlearned, min(2000, len(unlearned)))
    believed = read_beliefs(asked, learned, "base", Mute(), 0)
    context = Context(
        stages=[
            Stage(name=name, samples=tuple(s for s in samples if s.stage == name))
            for name in ("one", "four")
        ],
        checkpoints=[Checkpoint(name=name, model_uri="u") for name in CHECKPOINTS],
        samples={s.id: s for s in samples},
        scores=scores,
        verdicts=judged,
        histories=status_histories(*rule),
        probe=Mute(),
        asked=frozenset(s.id for s in asked),
        beliefs=lambda: believed,
        exposures=exposures,
    )
    each, evidence = {"beliefs and verdicts": time.perf_counter() - start}, {}
    for name, plugin in configure("diagnostic", None).items():
        began = time.perf_counter()
        evidence[name], _ = spread_findings(plugin.examine(unlearned, context), unlearned, context)
        each[name] = time.perf_counter() - began
    order = {cause.name: cause.order for cause in installed_causes()}
    found = attribute([*judged.values()], evidence, order)
    diagnosis_table(samples, judged, context.histories, CHECKPOINTS, found)
    return {"seconds": time.perf_counter() - start, "unlearned": len(unlearned), "each": each}


def fresh(call):
    """What a function of this module returns in a process of its own, with the peak memory in GB."""
    code = (
        f"import json, resource; from benchmarks.test_diagnosis import *; found = {call}; "
        "print(json.dumps(found | {'gigabytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_contradictions_are_searched_for():
    found = fresh(f"search({SAMPLES})")
    print(f"\nsearch among {SAMPLES:,} prompts: {found}")
    assert found["recall"] >= 0.95
    assert found["seconds"] <= 300
    assert found["gigabytes"] <= 4


def test_the_search_finds_what_an_exhaustive_one_finds():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = prompts(SUBSET, seed=2)
    pool = [
        Sample(id=str(i), stage="s", prompt=text, completion="x") for i, text in enumerate(texts)
    ]
    vectors = TfidfVectorizer(token_pattern=r"\w+").fit_transform(texts)
    exact = (vectors @ vectors.T).toarray()
    np.fill_diagonal(exact, 0)
    close = [(i, int(exact[i].argmax())) for i in range(SUBSET) if exact[i].max() >= 0.7]
    near = [{i for i, _ in row} for row in similar_rows(pool, pool, 64)]
    share = sum(j in near[i] for i, j in close) / len(close)
    print(f"\nof {len(close)} prompts, the nearest by all words is found for {share:.3f}")
    assert share >= 0.95


def test_same_questions_are_looked_up():
    found = fresh(f"look_up({SAMPLES})")
    print(f"\nsame questions among {SAMPLES:,} prompts: {found}")
    assert found["recall"] >= 0.95
    assert found["seconds"] <= 120
    assert found["gigabytes"] <= 4


def test_looking_up_finds_what_comparing_all_pairs_finds():
    rng = random.Random(3)
    texts = prompts(PAIRED // 2, seed=3)
    questions = Questions([*texts, *(reworded(text, rng) for text in texts)])
    pairs = [p for p in itertools.combinations(range(PAIRED), 2) if questions.is_same(*p)]
    found = sum(other in questions.same_as(place) for place, other in pairs)
    print(f"\nof {len(pairs)} pairs that are one question, {found / len(pairs):.3f} are looked up")
    assert len(pairs) >= 0.4 * PAIRED
    assert found >= 0.95 * len(pairs)


def test_diagnosis_of_many_samples():
    found = fresh(f"diagnose({SAMPLES})")
    print(f"\ndiagnosis of {SAMPLES:,} samples under {len(CHECKPOINTS)} checkpoints: {found}")
    assert found["seconds"] <= 120
