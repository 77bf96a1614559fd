"""Facts of runs for finders of faults: models in folders, scored and accounted for without a store."""

import functools

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.values import Checkpoint, Sample, Stage
from ilp_mlflow.diagnosis.context import ScoredSamples
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.text.last_model import read_last_model
from ilp_mlflow.scoring.checkpoints import read_last_tokenization
from ilp_mlflow.scoring.judged import score_and_judge
from ilp_mlflow.scoring.tokens.encoding import encode_sample
from ilp_mlflow.tracking import model_registry
from ilp_mlflow.training.accounts.row_account import account_rows

IGNORED = -100


def facts_of(samples, base, trained, **known):
    """Facts of models in two folders, trained elsewhere unless `known` says more."""
    locations = {"base": str(base), "first": str(trained)}
    scoring = ScoringConfig(device="cpu")
    wrong = {sample.id: () for sample in samples}
    judged = score_and_judge(samples, wrong, locations, scoring, 0, cached=False)
    stages = [Stage(name="first", samples=tuple(samples))]
    checkpoints = [Checkpoint(name=name, model_uri=uri) for name, uri in locations.items()]
    scored = ScoredSamples(
        samples, stages, checkpoints, judged.scores, judged.judgements, scoring, 0
    )
    context = scored.context
    tokenization = read_last_tokenization(model_registry.resolve_all(locations), None)
    accounts = account_rows(samples, tokenization, {"max_length": None})
    given = {
        "accounts": {account.sample_id: account for account in accounts},
        "last_model": functools.cache(lambda: read_last_model(context, None)),
    }
    return RunFacts(context, **(given | known))


def train(
    base, folder, samples, mask=lambda ids, start: ids[start:], steps=80, lr=5e-3, asked=None
):
    """Train the model of a folder on samples and save it; `mask` gives the labels from `start` on.

    `asked` are the samples as they are trained, where they are asked in another form.
    """
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32").train()
    tokenization = read_last_tokenization({"base": [str(base)]}, None)
    rows = []
    for sample in asked or samples:
        encoded = encode_sample(sample, tokenization)
        labels = [IGNORED] * encoded.start + list(mask(encoded.ids, encoded.start))
        rows.append((encoded.ids, labels))
    longest = max(len(ids) for ids, _ in rows)
    padding = [(longest - len(ids)) for ids, _ in rows]
    inputs = {
        "input_ids": [ids + [0] * n for (ids, _), n in zip(rows, padding, strict=True)],
        "labels": [labels + [IGNORED] * n for (_, labels), n in zip(rows, padding, strict=True)],
        "attention_mask": [
            [1] * len(ids) + [0] * n for (ids, _), n in zip(rows, padding, strict=True)
        ],
    }
    batch = {name: torch.tensor(values) for name, values in inputs.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pairs(n=8):
    """Samples of two words each, prompt and completion."""
    lands = ("France", "Italy", "Norway", "Egypt", "Peru", "Ecuador", "India", "Korea")
    cities = ("Paris", "Rome", "Oslo", "Cairo", "Lima", "Quito", "Delhi", "Seoul")
    return [
        Sample(
            id=land,
            stage="first",
            prompt=f"The capital of {land} is",
            completion=f" {city}, then {cities[(i * 3 + 1) % 8]}",
        )
        for i, (land, city) in enumerate(zip(lands[:n], cities[:n], strict=True))
    ]


def chats(samples):
    """The same as conversations."""
    return [
        Sample(
            id=s.id,
            stage=s.stage,
            prompt=[{"role": "user", "content": s.prompt}],
            completion=[{"role": "assistant", "content": s.completion.strip()}],
        )
        for s in samples
    ]
