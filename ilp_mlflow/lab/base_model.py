"""The lab's base model: a tiny Llama trained on the sentences of a world until it knows them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
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
from ilp_mlflow.core.progress import task
from ilp_mlflow.lab.world import QUESTIONS, RELATIONS, STATEMENTS, World, told, vocabulary

PAD, END = 0, 1
BATCH, LEARNING_RATE = 32, 2e-3
NEARLY, KNOWN, BY_CHANCE = 0.9, 0.99, 0.15
"""Share of what it was told that a base knows before its learning rate is lowered, and in the end; of what is withheld, at most.

By chance it names one of a person's six cities, or any of them all.
"""
MOST, LOWERING, ROUNDS = 30, 3, 3
"""Passes over all sentences until NEARLY is reached, at most; passes in which the learning rate falls to 0, and how often it may
until KNOWN is reached."""
CONSTANTS = (BATCH, LEARNING_RATE, NEARLY, KNOWN, BY_CHANCE, MOST, LOWERING, ROUNDS)
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role != 'assistant' -%}{{ message.content + ' ' }}
{%- elif messages[0].role == 'system' -%}{{ message.content }}{% generation %}{{ eos_token }}{% endgeneration %}
{%- elif messages[0].role == 'developer' -%}{% generation %}{{ message.content }}{% endgeneration %}{{ eos_token }}
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
    """Two layers of width 128 over a vocabulary of `size` words: less than half a million parameters."""
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
    """Folder of the base model that was told `world`, trained unless the cache has it. Raises ModelError, see `pretrain`."""
    sentences, words = told(world, seed), tokenizer(world)
    settings = [
        sentences,
        config(len(words)).to_dict(),
        CHAT_TEMPLATE,
        seed,
        CONSTANTS,
        torch.__version__,
        transformers.__version__,
    ]
    key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[
        :16
    ]
    path = cache.folder() / "lab" / key / "lab-base"
    if not path.exists():
        model = pretrain(world, sentences, words, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            model.save_pretrained(f"{scratch}/lab-base")
            words.save_pretrained(f"{scratch}/lab-base")
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(f"{scratch}/lab-base", path)
    return path


def pretrain(
    world: World, sentences: Sequence[str], words: PreTrainedTokenizerFast, seed: int
) -> LlamaForCausalLM:
    """Train a base model on `sentences` until it knows what they tell of `world`.

    Raises ModelError when, in the end, it knows less than KNOWN of that, or more than BY_CHANCE of what is withheld.
    """
    ids = [torch.tensor(words(text + "<eos>")["input_ids"]) for text in sentences]
    rows = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(len(words)))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    order = torch.Generator().manual_seed(seed)
    found = {"statements": 0.0, "questions": 0.0, "withheld": 0.0}
    with task("train the lab's base model") as advance:
        for _ in range(MOST):
            _pass(model, rows, optimizer, order, lambda done: 1.0)
            found = knowledge(world, model, words)
            advance(1)
            if min(found["statements"], found["questions"]) >= NEARLY:
                break
        for _ in range(ROUNDS):
            for number in range(LOWERING):
                _pass(
                    model, rows, optimizer, order, lambda done, n=number: 1 - (n + done) / LOWERING
                )  # type: ignore[misc]
                advance(1)
            found = knowledge(world, model, words)
            if min(found["statements"], found["questions"]) >= KNOWN:
                break
    if min(found["statements"], found["questions"]) < KNOWN or found["withheld"] > BY_CHANCE:
        shares = ", ".join(f"{share:.1%} of {kind}" for kind, share in found.items())
        raise ModelError(
            f"the lab's base of seed {seed} misses its mark: it knows {shares} (at least {KNOWN:.0%} of what it was told, "
            f"at most {BY_CHANCE:.0%} of what is withheld); use another seed"
        )
    return model


def knowledge(
    world: World, model: LlamaForCausalLM, words: PreTrainedTokenizerFast
) -> dict[str, float]:
    """Shares 0..1 of facts whose city is the model's first choice: told ones in statements and questions, and withheld ones."""
    asked: dict[str, list[tuple[str, str]]] = {"statements": [], "questions": [], "withheld": []}
    for number, ((person, relation), city) in enumerate(world.facts.items()):
        adjectives = RELATIONS[relation]
        question = QUESTIONS[number % len(QUESTIONS)].format(
            a=adjectives[number % len(adjectives)], p=person
        )
        if (person, relation) in world.withheld:
            asked["withheld"].append((question, city))
        else:
            asked["questions"].append((question, city))
            asked["statements"].append(
                (STATEMENTS[relation][0].partition("{c}")[0].format(p=person).strip(), city)
            )
    found = {}
    for kind, cases in asked.items():
        said = say(model, words, [prompt for prompt, _ in cases]) if cases else []
        found[kind] = sum(a == b for a, (_, b) in zip(said, cases, strict=True)) / max(
            1, len(cases)
        )
    return found


def say(
    model: LlamaForCausalLM, words: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> list[str]:
    """The model's first choice for the word that follows each prompt."""
    ids = words(list(prompts), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(
            input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
        ).logits
    last = ids["attention_mask"].sum(1) - 1
    said: list[str] = words.convert_ids_to_tokens(
        logits[torch.arange(len(prompts)), last].argmax(-1).tolist()
    )
    return said


def _pass(
    model: LlamaForCausalLM,
    rows: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    order: torch.Generator,
    rate: Callable[[float], float],
) -> None:
    """Every row once; `rate` scales the learning rate by the share 0..1 of the pass that is done."""
    model.train()
    batches = torch.randperm(len(rows), generator=order).split(BATCH)
    for number, chosen in enumerate(batches):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate(number / len(batches))
        batch = rows[chosen]
        batch = batch[:, : int((batch != PAD).sum(1).max())]
        states = model.model(batch).last_hidden_state[:, :-1]
        wanted = batch[:, 1:]
        cross_entropy(model.lm_head(states[wanted != PAD]), wanted[wanted != PAD]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
