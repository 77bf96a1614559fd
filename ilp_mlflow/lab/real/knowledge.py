"""What a pretrained base knows of the facts: asked behind solved questions of the same kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import transformers

from ilp_mlflow.core import cache
from ilp_mlflow.core.terminal.progress import track
from ilp_mlflow.lab.real import facts
from ilp_mlflow.lab.real.facts import Fact, Kind
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.models.loading import LoadedModel
from ilp_mlflow.tracking import model_registry
from ilp_mlflow.tracking.model_digest import model_digest

WORDINGS = 3
"""Ways in which every fact is asked; the last way of a kind is for paraphrases."""
EXAMPLES = 5
"""Solved questions of the same kind in front."""
ENOUGH = 3
"""Wordings of WORDINGS in which the base must be right, greedily, to know a fact: what it knows in
some only is not always learned in another."""
ROWS_PER_PASS = 16
"""Facts that are asked in one pass."""


def known_facts(model: str, asked: Mapping[str, int] | None = None) -> list[Fact]:
    """The facts that the base at `model` (folder, Hub id or MLflow URI) knows, kind after kind.

    With `asked` only so many facts of these kinds (by name) are asked, the first ones.

    Measured once for every base, then read from the cache. Raises ModelError when the model cannot
    be read.
    """
    if asked is None:
        asked = {name: len(kind.answers) for name, kind in facts.kinds().items()}
    right = right_wordings(model, asked)
    known = list[Fact]()
    for fact in facts.facts():
        if right.get(fact.kind.name, {}).get(fact.subject, 0) >= ENOUGH:
            known.append(fact)
    return known


def right_wordings(model: str, asked: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """In how many of WORDINGS the base is right, by kind and subject; see `known_facts`."""
    parts = model_registry.resolve_parts(model)
    key = [
        "what the base knows",
        *map(model_digest, parts),
        facts.FILE.read_text("utf-8"),
        f"{WORDINGS} wordings, {EXAMPLES} examples, {ROWS_PER_PASS} rows, {dict(asked)}",
        f"{torch.__version__} {transformers.__version__}",
    ]
    return cache.cached(key, lambda: measure(loading.load_model(parts), asked))


def measure(loaded: LoadedModel, asked: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """In how many of WORDINGS the model is right, by kind and subject."""
    loaded.model.eval()
    kinds = facts.kinds()
    right = dict[str, dict[str, int]]()
    for name in track(list(asked), "ask what the base knows"):
        subjects = list(kinds[name].answers)[: asked[name]]
        right[name] = dict.fromkeys(subjects, 0)
        for way in range(WORDINGS):
            for subject in _subjects_right(loaded, kinds[name], subjects, way):
                right[name][subject] += 1
    return right


def _subjects_right(
    loaded: LoadedModel, kind: Kind, subjects: Sequence[str], way: int
) -> list[str]:
    """Those of the subjects of a kind about which the model is right in one wording."""
    right = list[str]()
    for index in range(0, len(subjects), ROWS_PER_PASS):
        asked = subjects[index : index + ROWS_PER_PASS]
        examples = _examples(kind, asked)
        prefix = "".join(_solved(kind, subject, way) + "\n\n" for subject in examples)
        right += _right_behind(loaded, prefix, kind, asked, way)
    return right


def _examples(kind: Kind, asked: Sequence[str]) -> list[str]:
    """Subjects of solved questions: other ones than are asked, with answers of their own first."""
    answers_asked = {kind.answers[subject] for subject in asked}
    others = [subject for subject in kind.answers if subject not in asked]
    # an answer in front would be an answer told; kinds with few answers leave no other choice
    others.sort(key=lambda subject: kind.answers[subject] in answers_asked)
    spread = list[str]()
    answers = set[str]()
    for subject in others:
        if kind.answers[subject] not in answers:
            answers.add(kind.answers[subject])
            spread.append(subject)
    rest = [subject for subject in others if subject not in spread]
    return [*spread, *rest][:EXAMPLES]


def _solved(kind: Kind, subject: str, way: int) -> str:
    return f"{kind.wordings[way].format(x=subject)} {kind.answers[subject]}"


def _right_behind(
    loaded: LoadedModel, prefix: str, kind: Kind, asked: Sequence[str], way: int
) -> list[str]:
    """The subjects whose answer the model says greedily, as whole words."""
    tokenizer = loaded.tokenizer
    prefix_ids: list[int] = tokenizer(prefix)["input_ids"]
    rows, starts = list[torch.Tensor](), list[int]()
    for subject in asked:
        question = kind.wordings[way].format(x=subject)
        ids = tokenizer(question, add_special_tokens=False)["input_ids"]
        answer = tokenizer(f" {kind.answers[subject]}", add_special_tokens=False)["input_ids"]
        rows.append(torch.tensor([*ids, *answer]))
        starts.append(len(ids))
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.zeros_like(padded)
    for number, row in enumerate(rows):
        mask[number, : len(row)] = 1
    device = loaded.model.device
    with torch.inference_mode():
        # the examples are read once for all rows
        read = loaded.model(torch.tensor([prefix_ids], device=device), use_cache=True)
        read.past_key_values.batch_repeat_interleave(len(rows))
        seen = torch.ones(len(rows), len(prefix_ids), dtype=mask.dtype)
        logits = loaded.model(
            padded.to(device),
            attention_mask=torch.cat([seen, mask], 1).to(device),
            past_key_values=read.past_key_values,
        ).logits
    # (rows, columns): what the model says after each token
    said = logits.argmax(-1).cpu()
    right = list[str]()
    for number, subject in enumerate(asked):
        start, row = starts[number], rows[number]
        follows = tokenizer.decode(said[number, len(row) - 1 : len(row)])
        # "not" is no "no": a letter right behind would be a longer word
        is_said = said[number, start - 1 : len(row) - 1].equal(row[start:])
        if is_said and not follows[:1].isalnum():
            right.append(subject)
    return right
