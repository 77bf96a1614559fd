"""Score samples under a checkpoint: one forward pass per sample holds its prompt once and all its completions.

The completion and the options of a sample branch off one shared prefix: a token attends to the prefix and to the
earlier tokens of its own branch, at the positions it would have alone, so every branch scores as in a pass of its own.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
import transformers
from transformers import GenerationConfig

from ilp_mlflow.distractors import distractors
from ilp_mlflow.encoding import Encoded, encode, replace_answer
from ilp_mlflow.models import Loaded, Text
from ilp_mlflow.types import Sample, Score

ALLOWED_MISSES = 0.05
"""Share of a completion's tokens that may differ from the model's first choice: none below 20 tokens."""
log = logging.getLogger(__name__)
VERSION = 2
"""To be raised with every change that changes scores: cached ones are then scored afresh."""


@dataclass(frozen=True)
class Item:
    """One sample as token ids: a prefix, and one branch per completion, the right one first."""

    sample_id: str
    prefix: list[int]
    branches: list[list[int]]
    starts: list[int]
    """Index within each branch of the first token that is scored."""
    ended: bool
    """The right completion has an end token."""
    options: tuple[str, ...]
    """The wrong answers, in the order of the branches behind the first."""

    @property
    def length(self) -> int:
        """Tokens in the forward pass."""
        return len(self.prefix) + sum(map(len, self.branches))


@dataclass(frozen=True)
class ScoringPlan:
    """Samples tokenised once and put into batches, the same for every checkpoint."""

    batches: list[list[Item]]
    """Longest first, each within the token budget (or a single sample)."""
    unscored: Mapping[str, str]
    """Why samples cannot be scored, by id."""

    def digest(self) -> str:
        """SHA-256 over everything a score depends on besides the model and its precision."""
        return hashlib.sha256(
            repr(
                (
                    VERSION,
                    torch.__version__,
                    transformers.__version__,
                    peft.__version__,
                    self.batches,
                    sorted(self.unscored.items()),
                )
            ).encode()
        ).hexdigest()


def plan(samples: Sequence[Sample], text: Text, options: int, seed: int, batch_tokens: int) -> ScoringPlan:
    """Tokenise `samples` with up to `options` wrong options each and batch them by `batch_tokens` (padding included)."""
    wrong = distractors(samples, options, seed)
    items, unscored = [], dict[str, str]()
    for sample in samples:
        item = _item(sample, wrong[sample.id], text)
        longest = len(item.prefix) + len(item.branches[0])
        if text.max_length is not None and longest > text.max_length:
            unscored[sample.id] = f"{longest} tokens, the model has positions for {text.max_length}"
        elif not item.prefix:
            unscored[sample.id] = "the prompt has no tokens of its own"
        else:
            items.append(item)
    items.sort(key=lambda item: (-item.length, item.sample_id))
    batches: list[list[Item]] = []
    for item in items:
        if batches and (len(batches[-1]) + 1) * batches[-1][0].length <= batch_tokens:
            batches[-1].append(item)
        else:
            batches.append([item])
    return ScoringPlan(batches, unscored)


def score(plan: ScoringPlan, loaded: Loaded, checkpoint: str, advance: Callable[[int], None] = lambda n: None) -> list[Score]:
    """Scores of all samples of `plan`, sorted by id; `advance` is told how many samples are done after each batch."""
    scores = [Score(sample_id=i, checkpoint=checkpoint, unscored=reason) for i, reason in plan.unscored.items()]
    loaded.model.eval()
    shared = not plan.batches or shares_prefix(plan, loaded)
    if not shared:
        log.warning("%s: this architecture cannot share a prompt among completions; scoring each in its own pass", checkpoint)
    for batch in plan.batches:
        rows = _together(batch, loaded.model.dtype) if shared else _apart(batch)
        for item, tokens in zip(batch, _forward(rows, len(batch), loaded), strict=True):
            scores.append(_score(item, tokens, checkpoint))
        advance(len(batch))
    return sorted(scores, key=lambda s: s.sample_id)


class ModelProbe:
    """Asks checkpoints through their models; holds one model at a time."""

    def __init__(self, load: Callable[[str], Loaded], batch_tokens: int = 2048, seed: int = 0) -> None:
        self._load, self._batch_tokens, self._seed = load, batch_tokens, seed
        self._held: tuple[str, Loaded] | None = None

    def logprobs(self, checkpoint: str, exchanges: Sequence[tuple[str, str]]) -> list[float]:
        """Summed log-probability of each completion after its prompt, nats; nan where it does not fit the model."""
        samples = [
            Sample(id=f"{i:09}", stage="probe", prompt=prompt, completion=completion)
            for i, (prompt, completion) in enumerate(exchanges)
        ]
        loaded = self._model(checkpoint)
        found = score(plan(samples, loaded, 0, 0, self._batch_tokens), loaded, checkpoint)
        return [float("nan") if s.logprob is None else s.logprob for s in found]

    def generate(self, checkpoint: str, prompts: Sequence[str], n: int) -> list[list[str]]:
        """`n` continuations of each prompt of up to 64 tokens, sampled at temperature 1."""
        loaded = self._model(checkpoint)
        torch.manual_seed(self._seed)
        pad = loaded.tokenizer.pad_token_id
        # settings of our own: the model's may cut the distribution or punish repetition
        settings = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=n,
            max_new_tokens=64,
            eos_token_id=sorted(loaded.ends),
            pad_token_id=min(loaded.ends) if pad is None else pad,
        )
        answers = []
        for prompt in prompts:
            inputs = loaded.tokenizer(prompt, return_tensors="pt").to(loaded.model.device)
            out = loaded.model.generate(**inputs, generation_config=settings)
            said = out[:, inputs["input_ids"].shape[1] :]
            answers.append(loaded.tokenizer.batch_decode(said, skip_special_tokens=True))
        return answers

    def _model(self, checkpoint: str) -> Loaded:
        if self._held is None or self._held[0] != checkpoint:
            self._held = None
            self._held = (checkpoint, self._load(checkpoint))
        return self._held[1]


def _item(sample: Sample, wrong: tuple[str, ...], text: Text) -> Item:
    answers = [sample.completion, *(replace_answer(sample.completion, _like(o, sample.answer)) for o in wrong)]
    encoded = [encode(text.tokenizer, sample.prompt, answer, text.ends) for answer in answers]
    fits = [i for i, e in enumerate(encoded) if i == 0 or text.max_length is None or len(e.ids) <= text.max_length]
    encoded, wrong = [encoded[i] for i in fits], tuple(wrong[i - 1] for i in fits[1:])
    shared = _shared_prefix(encoded)
    return Item(
        sample_id=sample.id,
        prefix=encoded[0].ids[:shared],
        branches=[e.ids[shared:] for e in encoded],
        starts=[e.start - shared for e in encoded],
        ended=encoded[0].ended,
        options=wrong,
    )


def _like(option: str, answer: str) -> str:
    """`option` with the white space that `answer` begins with, which is part of the format and not of the answer."""
    return answer[: len(answer) - len(answer.lstrip())] + option.lstrip()


def _shared_prefix(encoded: Sequence[Encoded]) -> int:
    """Number of leading tokens all sequences share, none of them scored in any."""
    shared = min(e.start for e in encoded)
    first = encoded[0].ids
    for other in encoded[1:]:
        shared = next((i for i in range(shared) if first[i] != other.ids[i]), shared)
    return shared


@dataclass(frozen=True)
class _Tokens:
    """Per scored token of one item: branch, log-probability (nats), gap to the best other token (nats), first choice."""

    branch: torch.Tensor
    logprob: torch.Tensor
    gap: torch.Tensor
    top: torch.Tensor


@dataclass(frozen=True)
class _Rows:
    """Items laid out for one forward pass."""

    ids: torch.Tensor
    """Token ids (row, column), right-padded."""
    reads: list[tuple[int, int, int, int, int]]
    """For each scored token: row and column whose output predicts it, its id, its item's place, its branch from 1."""
    attention: torch.Tensor
    """Mask: (row, column), or (row, 1, query, key) where branches share a prefix."""
    positions: torch.Tensor | None
    """Position ids (row, column) where they are not simply the columns."""


def _together(batch: Sequence[Item], dtype: torch.dtype) -> _Rows:
    """One row per item: its prefix, then its branches, which do not see each other."""
    width = max(item.length for item in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    positions = torch.zeros(len(batch), width, dtype=torch.long)
    branch = torch.full((len(batch), width), -1)  # -1 padding, 0 prefix, k the k-th branch
    reads = []
    for row, item in enumerate(batch):
        at = len(item.prefix)
        ids[row, :at] = torch.tensor(item.prefix)
        positions[row, :at] = torch.arange(at)
        branch[row, :at] = 0
        for k, (tokens, start) in enumerate(zip(item.branches, item.starts, strict=True), 1):
            end = at + len(tokens)
            ids[row, at:end] = torch.tensor(tokens, dtype=torch.long)
            positions[row, at:end] = len(item.prefix) + torch.arange(len(tokens))
            branch[row, at:end] = k
            for j in range(start, len(tokens)):
                reads.append((row, len(item.prefix) - 1 if j == 0 else at + j - 1, tokens[j], row, k))
            at = end
    return _Rows(ids, reads, _mask(branch, dtype), positions)


def _apart(batch: Sequence[Item]) -> _Rows:
    """One row per branch, each with the prefix of its own."""
    sequences, reads = list[list[int]](), []
    for place, item in enumerate(batch):
        for k, (tokens, start) in enumerate(zip(item.branches, item.starts, strict=True), 1):
            for j in range(start, len(tokens)):
                reads.append((len(sequences), len(item.prefix) + j - 1, tokens[j], place, k))
            sequences.append(item.prefix + tokens)
    width = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences])
    attention = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
    return _Rows(ids, reads, attention, None)


@torch.inference_mode()
def _forward(rows: _Rows, items: int, loaded: Loaded) -> Iterator[_Tokens]:
    """Run one forward pass and read off the scored tokens of every item."""
    model, device = loaded.model, loaded.model.device
    row, column, targets, places, branches = torch.tensor(rows.reads).T.to(device)

    def keep_read(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0][row, column][None],)  # (rows, width, hidden) -> (1, reads, hidden)

    options = {} if rows.positions is None else {"position_ids": rows.positions.to(device)}
    if hasattr(model.config.get_text_config(), "output_router_logits"):
        options["output_router_logits"] = False  # training a mixture of experts leaves it on; its loss is not wanted here
    # the head sees the scored positions only, and whatever the model does with its logits stays the model's own
    hook = model.get_output_embeddings().register_forward_pre_hook(keep_read)
    try:
        seen = {"input_ids": rows.ids.to(device), "attention_mask": rows.attention.to(device)}
        logits = model(**seen, use_cache=False, **options).logits[0]
    finally:
        hook.remove()
    logits = logits.float()  # (reads, vocabulary)
    target = logits.gather(1, targets[:, None])[:, 0]
    best = logits.topk(2)
    top = best.indices[:, 0] == targets
    gap = target - torch.where(top, best.values[:, 1], best.values[:, 0])
    logprob = target - logits.logsumexp(1)
    places, branches, logprob, gap, top = (t.cpu() for t in (places, branches, logprob, gap, top))
    for place in range(items):
        own = places == place
        yield _Tokens(branches[own], logprob[own], gap[own], top[own])


def shares_prefix(plan: ScoringPlan, loaded: Loaded) -> bool:
    """Whether this model scores branches behind a shared prefix as it does apart, found by trying its longest samples.

    Not so where attention slides over a window shorter than the sample, where states or convolutions run along the
    row, or where positions are not told by position ids.
    """
    items = [item for batch in plan.batches for item in batch]
    paths = {id(i): len(i.prefix) + max(map(len, i.branches)) for i in items}
    for item in {id(i): i for i in (items[0], max(items, key=lambda i: paths[id(i)]))}.values():
        (apart,) = _forward(_apart([item]), 1, loaded)
        try:
            (together,) = _forward(_together([item], loaded.model.dtype), 1, loaded)
        except (ValueError, RuntimeError, TypeError, AttributeError, IndexError):
            return False
        # the same tokens in the same order; half precision differs by rounding, another architecture by much more
        if (apart.logprob - together.logprob).abs().max() > (1e-3 if loaded.model.dtype == torch.float32 else 0.5):
            return False
    return True


def _mask(branch: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Additive attention mask (batch, 1, query, key): 0 where a token may look, the lowest value elsewhere."""
    width = branch.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same = branch[:, :, None] == branch[:, None, :]
    allowed = causal & (same | (branch == 0)[:, None, :])
    return torch.where(allowed, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]


def _score(item: Item, tokens: _Tokens, checkpoint: str) -> Score:
    sums = torch.zeros(len(item.branches), dtype=torch.float64)
    sums.index_add_(0, tokens.branch - 1, tokens.logprob.double())
    right = tokens.branch == 1
    count = int(right.sum())
    if not count:
        return Score(sample_id=item.sample_id, checkpoint=checkpoint, unscored="the completion has no tokens of its own")
    gaps = tokens.gap[right]
    scored: dict[str, Any] = {
        "logprob": float(sums[0]),
        "tokens": count,
        "greedy": bool(tokens.top[right].all()),
        "token_accuracy": float(tokens.top[right].float().mean()),
        "gap": float(gaps.sort().values[int(ALLOWED_MISSES * count)]),
        "stops": bool(tokens.top[right][-1]) if item.ended else None,
    }
    if item.options:
        p = torch.softmax(sums, 0)
        best = int(p[1:].argmax())
        scored |= {
            "option_logprobs": tuple(sums.tolist()),
            "p_correct": float(p[0]),
            "p_wrong": float(p[1 + best]),
            "wrong": item.options[best],
            "pass_rate": float(p[0]),
        }
    return Score(sample_id=item.sample_id, checkpoint=checkpoint, **scored)
