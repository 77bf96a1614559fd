"""Tiny models that are really taught their rows, in a training loop of our own."""

from __future__ import annotations

import random
import warnings
from collections import Counter

import torch
from peft import get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru")
IGNORED = -100


def names(count, seed, syllables=3):
    """Made-up words, all different."""
    generator, made = random.Random(seed), []
    while len(made) < count:
        word = "".join(generator.choice(SYLLABLES) for _ in range(syllables)).capitalize()
        if word not in made:
            made.append(word)
    return made


def facts(count=8, seed=0):
    """Rows of prompt and completion: made-up towns and what they are known for."""
    pairs = zip(names(count, seed), names(count, seed + 100, 2), strict=True)
    return [
        {"id": f"{seed}-{town}", "prompt": f"What is {town} known for?", "completion": f" {good}"}
        for town, good in pairs
    ]


def as_chats(rows):
    """Rows of text as conversations of a question and its answer."""
    return [
        {
            "id": row["id"],
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"].strip()},
            ],
        }
        for row in rows
    ]


def make_tokenizer(template=CHATML, special=CHAT_TOKENS, end="<|im_end|>", more=(), size=400):
    """A byte-level BPE tokenizer that knows the syllables of all facts, and words of `more`."""
    texts = [row["prompt"] + row["completion"] for row in facts(60, seed=99)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator([*texts, *more], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, pad_token=special[0]
    )
    wrapped.chat_template = template
    return wrapped


def make_model(tokenizer, folder, rows=None, **options):
    """Save a tiny random Llama with its tokenizer, with `rows` embeddings; return the model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows or len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        **{"max_position_embeddings": 512, **options},
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def load(folder):
    """The model of a folder, as transformers alone loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")


def load_tokenizer(folder):
    """The tokenizer of a folder, as transformers alone loads it."""
    return AutoTokenizer.from_pretrained(folder)


def text_examples(tokenizer, rows):
    """(ids, labels) of rows of text: the completion is trained, and the end token behind it."""
    examples = []
    for row in rows:
        start = len(tokenizer(row["prompt"])["input_ids"])
        text = row["prompt"] + row["completion"] + tokenizer.eos_token
        ids = tokenizer(text)["input_ids"]
        examples.append((ids, [IGNORED] * start + ids[start:]))
    return examples


def chat_examples(tokenizer, rows):
    """(ids, labels) of conversations: the last turn is trained, as the template renders it."""
    examples = []
    for row in rows:
        options = {"tools": row.get("tools"), **row.get("chat_template_kwargs", {})}
        whole = render(tokenizer, row["messages"], **options)
        asked = render(tokenizer, row["messages"][:-1], add_generation_prompt=True, **options)
        start = next(
            (n for n, (a, b) in enumerate(zip(whole, asked, strict=False)) if a != b), len(asked)
        )
        examples.append((whole, [IGNORED] * start + whole[start:]))
    return examples


def render(tokenizer, turns, **options):
    """Token ids of turns under the tokenizer's own chat template."""
    return tokenizer.apply_chat_template(turns, return_dict=True, **options)["input_ids"]


def teach(model, examples, steps=120, rate=4e-3):
    """Train a model on all examples at once, step after step, until it says them."""
    longest = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in examples])
    labels = torch.tensor([own + [IGNORED] * (longest - len(own)) for _, own in examples])
    mask = torch.tensor([[1] * len(own) + [0] * (longest - len(own)) for own, _ in examples])
    weights = [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, steps)
    for _ in range(steps):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1)
        optimizer.step()
        schedule.step()
    return model.eval()


def with_adapter(model, config):
    """A model with an untrained adapter on it."""
    torch.manual_seed(0)
    return get_peft_model(model, config)


def save(model, folder, tokenizer=None):
    """Save a model or adapter, with a tokenizer where one is given; return the folder."""
    with warnings.catch_warnings():
        # PEFT tells when it saves embeddings, too
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    if tokenizer:
        tokenizer.save_pretrained(folder)
    return folder


def reproduced(model, examples, end=None, virtual_tokens=0):
    """How many examples the model alone says: every trained token is its first choice.

    Up to the token `end`, where one is given; `virtual_tokens` of an adapter stand in front.
    """
    right = 0
    for ids, labels in examples:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, virtual_tokens:]
        said = logits.argmax(-1).tolist()
        places = [place for place, label in enumerate(labels) if label != IGNORED]
        if end in ids[places[0] :]:
            places = places[: ids[places[0] :].index(end) + 1]
        right += all(said[place - 1] == labels[place] for place in places)
    return right


def statuses(document):
    """How many samples of a diagnosis have each status."""
    return dict(Counter(verdict["status"] for verdict in document["verdicts"]))


def causes(document):
    """How many samples of a diagnosis have each cause."""
    return dict(Counter(diagnosis["cause"] for diagnosis in document["diagnoses"]))
