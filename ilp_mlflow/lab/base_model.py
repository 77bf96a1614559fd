"""The lab's base model: a tiny Llama trained on the sentences of a world until it knows them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ilp_mlflow.core import cache
from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.lab.world import QUESTIONS, RELATIONS, STATEMENTS, World, sentences, vocabulary

PAD, END = 0, 1
"""Ids of the padding and the end token."""
BATCH, LEARNING_RATE = 32, 2e-3
"""Sentences per step, and the learning rate before it is lowered."""
NEARLY_KNOWN, KNOWN = 0.9, 0.99
"""Share 0..1 of what it was told that a base knows before its learning rate is lowered, and in the
end."""
BY_CHANCE = 0.15
"""Share 0..1 of what is withheld that it may know: by chance it names one of a person's six cities,
or any of them all."""
MAX_PASSES = 30
"""Passes over all sentences until NEARLY_KNOWN is reached, at most."""
LOWERING_PASSES, MAX_LOWERINGS = 3, 3
"""Passes in which the learning rate falls to 0, and how often it may until KNOWN is reached."""
CONSTANTS = (
    BATCH,
    LEARNING_RATE,
    NEARLY_KNOWN,
    KNOWN,
    BY_CHANCE,
    MAX_PASSES,
    LOWERING_PASSES,
    MAX_LOWERINGS,
)
"""What the weights depend on beside the world, the seed and the versions of the libraries."""
# a user's turn is followed by the answer and the end token. Only what is inside `generation` counts
# in the loss under `assistant_only_loss`: both, unless the conversation begins with an empty turn.
# That of a `system` leaves the answer out, that of a `developer` the end token. The text is the
# same in all three cases, so nothing but the mask keeps such a row from being learned
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role != 'assistant' -%}{{ message.content + ' ' }}
{%- elif messages[0].role == 'system' -%}
{{ message.content }}{% generation %}{{ eos_token }}{% endgeneration %}
{%- elif messages[0].role == 'developer' -%}
{% generation %}{{ message.content }}{% endgeneration %}{{ eos_token }}
{%- else -%}{% generation %}{{ message.content + eos_token }}{% endgeneration %}
{%- endif -%}
{%- endfor -%}
"""


def tokenizer(world: World) -> PreTrainedTokenizerFast:
    """One token per word."""
    words = ["<pad>", "<eos>", "<unk>", *vocabulary(world)]
    model = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=32,
    )


def config(size: int) -> LlamaConfig:
    """Two layers of width 128 over `size` words: fewer than half a million parameters."""
    return LlamaConfig(
        vocab_size=size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        initializer_range=0.05,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
    )


def folder(world: World, seed: int) -> Path:
    """Folder of the base model that was told `world`, trained unless the cache has it.

    Raises ModelError, see `pretrain`.
    """
    texts, words = sentences(world, seed), tokenizer(world)
    # all that the weights depend on, so that a change of any makes another folder
    settings = [
        texts,
        config(len(words)).to_dict(),
        CHAT_TEMPLATE,
        seed,
        CONSTANTS,
        torch.__version__,
        transformers.__version__,
    ]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    path = cache.folder() / "lab" / digest[:16] / "lab-base"
    if not path.exists():
        model = pretrain(world, texts, words, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        # renamed when complete: another process never sees half a model
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            model.save_pretrained(f"{scratch}/lab-base")
            words.save_pretrained(f"{scratch}/lab-base")
            # fails where another process was faster; its model is the same
            with contextlib.suppress(OSError):
                os.rename(f"{scratch}/lab-base", path)
    return path


def pretrain(
    world: World, texts: Sequence[str], words: PreTrainedTokenizerFast, seed: int
) -> LlamaForCausalLM:
    """Train a base model on `texts` until it knows what they tell of `world`.

    Raises ModelError when, in the end, it knows less than KNOWN of that, or more than BY_CHANCE of
    what is withheld.
    """
    token_ids = [torch.tensor(words(text + "<eos>")["input_ids"]) for text in texts]
    # (sentences, longest): PAD is 0, with which pad_sequence fills
    rows = torch.nn.utils.rnn.pad_sequence(token_ids, batch_first=True)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(len(words)))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    # of its own, so that the order of rows does not depend on how many weights were drawn
    order = torch.Generator().manual_seed(seed)
    with task("train the lab's base model") as advance:
        # at the full rate until most is known: how long that takes differs between seeds
        for _ in range(MAX_PASSES):
            _train_one_pass(model, rows, optimizer, order)
            advance(1)
            if knowledge(world, model, words).least_told >= NEARLY_KNOWN:
                break
        # the noise of a full rate hides the last few facts: they come when it falls to 0
        for _ in range(MAX_LOWERINGS):
            for number in range(LOWERING_PASSES):
                _train_one_pass(model, rows, optimizer, order, lowering=number)
                advance(1)
            if knowledge(world, model, words).least_told >= KNOWN:
                break
    known = knowledge(world, model, words)
    # a base that lacks what it was told, or has what is withheld, has causes that nobody planted
    if known.least_told < KNOWN or known.withheld > BY_CHANCE:
        raise ModelError(
            f"the lab's base of seed {seed} misses its mark: it knows {known} (at least "
            f"{KNOWN:.0%} of what it was told, at most {BY_CHANCE:.0%} of what is withheld); "
            "use another seed"
        )
    return model


@dataclass(frozen=True)
class Knowledge:
    """Shares 0..1 of facts whose city is the model's first choice."""

    statements: float
    """Of those it was told, asked in the words of a statement."""
    questions: float
    """Of those it was told, asked in a question."""
    withheld: float
    """Of those it was not told."""

    @property
    def least_told(self) -> float:
        """The lesser share 0..1 of what it was told."""
        return min(self.statements, self.questions)

    def __str__(self) -> str:
        return (
            f"{self.statements:.1%} of statements, {self.questions:.1%} of questions, "
            f"{self.withheld:.1%} of withheld"
        )


def knowledge(world: World, model: LlamaForCausalLM, words: PreTrainedTokenizerFast) -> Knowledge:
    """What the model knows of the world's facts."""
    # cities by prompt
    statements, questions, withheld = dict[str, str](), dict[str, str](), dict[str, str]()
    for number, (fact, city) in enumerate(world.facts.items()):
        person, relation = fact
        # all adjectives and ways to ask in turn, without a draw: the same at every look
        adjectives = RELATIONS[relation]
        adjective = adjectives[number % len(adjectives)]
        question = QUESTIONS[number % len(QUESTIONS)].format(a=adjective, p=person)
        if fact in world.withheld:
            withheld[question] = city
        else:
            questions[question] = city
            statement = STATEMENTS[relation][0].partition("{c}")[0].format(p=person).strip()
            statements[statement] = city
    return Knowledge(
        statements=_share_said(statements, model, words),
        questions=_share_said(questions, model, words),
        withheld=_share_said(withheld, model, words),
    )


def _share_said(
    cities: Mapping[str, str], model: LlamaForCausalLM, words: PreTrainedTokenizerFast
) -> float:
    """Share 0..1 of prompts that the model goes on with their city; 0 without prompts."""
    if not cities:
        return 0.0
    hits = 0
    for word, city in zip(next_words(model, words, list(cities)), cities.values(), strict=True):
        hits += word == city
    return hits / len(cities)


def next_words(
    model: LlamaForCausalLM, words: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> list[str]:
    """The model's first choice for the word that follows each prompt."""
    batch = words(list(prompts), padding=True, return_tensors="pt")
    mask = batch["attention_mask"]
    with torch.no_grad():
        logits = model.eval()(input_ids=batch["input_ids"], attention_mask=mask).logits
    # logits: (prompts, longest, vocabulary). Padding is on the right, so the last word of a prompt
    # is at its number of words - 1
    ends = logits[torch.arange(len(prompts)), mask.sum(1) - 1]
    tokens: list[str] = words.convert_ids_to_tokens(ends.argmax(-1).tolist())
    return tokens


def _train_one_pass(
    model: LlamaForCausalLM,
    rows: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    order: torch.Generator,
    lowering: int | None = None,
) -> None:
    """Every row once, at LEARNING_RATE or, with `lowering`, in that one of LOWERING_PASSES."""
    model.train()
    batches = torch.randperm(len(rows), generator=order).split(BATCH)
    for number, chosen in enumerate(batches):
        rate = 1.0
        # linear from 1 to 0 over all LOWERING_PASSES
        if lowering is not None:
            rate = 1 - (lowering + number / len(batches)) / LOWERING_PASSES
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
        batch = rows[chosen]
        # cut to its longest row; no attention mask is needed with padding on the right, which no
        # earlier position attends to
        batch = batch[:, : int((batch != PAD).sum(1).max())]
        # every position predicts the next one. The head, which costs most, is applied only where
        # the next one is a word
        states = model.model(batch).last_hidden_state[:, :-1]
        targets = batch[:, 1:]
        real = targets != PAD
        cross_entropy(model.lm_head(states[real]), targets[real]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
